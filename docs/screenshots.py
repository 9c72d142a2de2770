"""Makes the pictures of the guide: ``python docs/screenshots.py``. It needs a headless Chromium, and a Postgres as the tests do.

The application on them is the one of the tests of the page (tests/support/page_seed.py). ``--check`` makes them in a folder of its
own, and leaves those of the guide as they are: a CI run shows by that that the script still works.
"""  # noqa: INP001 - a script, not a package

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import asyncpg

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from dbos_async import DBOS  # noqa: E402
from dbos_async._database import migrations  # noqa: E402
from tests.support.page_app import served_page  # noqa: E402
from tests.support.postgres import QUICK, Server  # noqa: E402
from tests.support.sites import chromium  # noqa: E402

IMAGES = ROOT / "docs" / "guide" / "images"

PICTURES = {
    # name: place, width, height, colours, what must be there
    "page-now": ("", 1120, 860, "light", "#counts table"),
    "page-workflows": ("workflows", 1120, 760, "light", "tbody tr"),
    "page-workflow": ("workflow?id=order-0005", 1120, 700, "light", ".wait .countdown"),
    "page-failed": ("workflow?id=subscription-1", 1120, 700, "dark", ".traceback"),
    "page-stream": ("stream?id=agent-ada&key=tokens", 1120, 560, "dark", "#values li:nth-child(20)"),
    "page-phone": ("workflow?id=order-0001", 390, 844, "dark", "#step-9"),
}


WITHOUT_PATHS = (
    "update dbos_async.workflows set error = replace(error::text, $1, $2)::json where error is not null",
    "update dbos_async.steps set error = replace(error::text, $1, $2)::json where error is not null",
)
"""A picture tells nothing of the machine on which it was made."""


async def make(folder: Path) -> None:
    """Make all pictures in a folder."""
    async with Server(*QUICK) as server:
        connection = await asyncpg.connect(server.url)
        await migrations.migrate(connection)
        await connection.close()
        async with served_page(server.url, is_hostile=False) as address, chromium() as browser:
            await DBOS.send("order-0006", {"note": "please wrap it"}, "note")
            connection = await asyncpg.connect(server.url)
            for sql in WITHOUT_PATHS:
                await connection.execute(sql, str(ROOT), "/srv/shop")
            await connection.close()
            for name, (place, width, height, colours, what) in PICTURES.items():
                options: dict[str, Any] = {
                    "viewport": {"width": width, "height": height},
                    "color_scheme": colours,
                    "reduced_motion": "reduce",
                }
                page = await browser.new_page(**options)
                await page.goto(f"{address}{place}")
                await page.locator(what).first.wait_for()
                await page.screenshot(path=folder / f"{name}.png")
                await page.close()
                print(f"{name}.png  {(folder / f'{name}.png').stat().st_size / 1024:.0f} KiB")


def main() -> None:
    """Make them where they are wanted."""
    parser = argparse.ArgumentParser(description="Makes the pictures of the guide.")
    parser.add_argument("--check", action="store_true", help="make them elsewhere, and keep those of the guide")
    logging.disable(logging.CRITICAL)
    if parser.parse_args().check:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(make(Path(folder)))
    else:
        IMAGES.mkdir(exist_ok=True)
        asyncio.run(make(IMAGES))


if __name__ == "__main__":
    main()
