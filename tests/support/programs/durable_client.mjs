// Reads one stream with the official client of the Durable Streams protocol, and prints what it got as one line of JSON each.
// node durable_client.mjs URL MODE [OFFSET [COUNT]]; MODE: head, false, all, long-poll, sse or true. After COUNT values it leaves.
import { DurableStream, stream } from "@durable-streams/client";

const [url, mode, offset = "-1", count = "Infinity"] = process.argv.slice(2);
const print = (line) => console.log(JSON.stringify(line));

if (mode === "head") {
  const { exists, contentType, offset: tail, streamClosed } = await DurableStream.head({ url });
  print({ exists, contentType, tail, closed: streamClosed });
} else {
  const all = mode === "all" || mode === "false";
  const live = { false: false, true: true, all: true }[mode] ?? mode;
  const leaving = new AbortController();
  const options = { backoffOptions: { initialDelay: 10, maxDelay: 100, multiplier: 1.3, maxRetries: 20 } };
  let seen = 0;
  try {
    const response = await stream({ url, offset, live, json: true, signal: leaving.signal, ...options });
    if (all) {
      print({ items: await response.json() }); // what is there
    } else {
      response.subscribeJson((batch) => {
        seen += batch.items.length;
        print({ items: batch.items, offset: batch.offset, upToDate: batch.upToDate, closed: batch.streamClosed });
        if (seen >= Number(count)) leaving.abort();
      });
      await response.closed;
    }
    // The client says that it is closed before its last batch has come.
    process.on("beforeExit", () => print({ ended: true, offset: response.offset, closed: response.streamClosed }) || process.exit(0));
  } catch (error) {
    print(leaving.signal.aborted ? { left: true } : { failed: error.name, status: error.status, code: error.code });
  }
}
