"""``python -m dbos_async.lint PATH…``: report what workflows call and a replay does not repeat.

After a crash a workflow runs again from the top. Its steps and verbs return what was recorded; but what its own code asks a clock,
a random generator or a server is asked again, and another answer may send the workflow another way. This program reads the source
of workflows, and imports nothing of it. It reports such calls in their bodies, and in the functions that are defined there::

    shop/orders.py:17:11: asyncio.sleep in workflow 'checkout' is not recorded and waits anew in a replay: use DBOS.sleep.

It does not follow calls: neither into steps nor into functions that are defined outside of the workflow. A comment
``# replay: ok`` on the line of a call lets the call pass. The exit code is 0 when nothing was found, 1 when something was, and 2
when a path could not be read.
"""

from dbos_async.lint.finder import Finding, check_source

__all__ = ["Finding", "check_source"]
