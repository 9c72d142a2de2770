// A stream, as it is written: each value once, and what an attempt took back gone, by the events of stream_response.
"use strict";

(() => {
  const list = document.getElementById("values");
  const whole = document.getElementById("whole");
  const state = document.getElementById("state");
  const asText = document.getElementById("text");
  const follow = document.getElementById("follow");
  const most = Number(list.dataset.most);
  const values = new Map(); // by offset
  let next = Number(list.dataset.from);
  let dropped = 0;
  let pause = 1000;
  let drawing = false;

  const say = (text, tone) => {
    if (state.textContent !== text) state.textContent = text;
    state.className = `badge ${tone}`;
  };
  const visible = (text) => text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Co}\p{Cn}]/gu, (one) =>
    one === "\n" || one === "\t" ? one : `\\u{${one.codePointAt(0).toString(16)}}`);
  const shown = (json) => {
    const value = JSON.parse(json);
    const text = visible(typeof value === "string" && asText.checked ? value : json);
    return text.length > 4000 ? `${text.slice(0, 4000)}… (${text.length.toLocaleString("en")} characters)` : text;
  };

  const draw = () => {
    drawing = false;
    if (asText.checked) {
      whole.textContent = [...values].sort(([a], [b]) => a - b).map(([, one]) => shown(one.json)).join("");
    } else {
      const fresh = document.createDocumentFragment();
      for (const [offset, one] of values) {
        if (one.item) continue;
        one.item = document.createElement("li");
        one.item.dataset.offset = offset;
        one.item.textContent = shown(one.json);
        fresh.append(one.item);
      }
      list.append(fresh);
    }
    list.hidden = asText.checked;
    whole.hidden = !asText.checked;
    const box = asText.checked ? whole : list;
    if (follow.checked) box.scrollTop = box.scrollHeight;
  };
  const redraw = () => {
    if (!drawing) requestAnimationFrame(draw);
    drawing = true;
  };
  const remove = (offset) => {
    values.get(offset)?.item?.remove();
    values.delete(offset);
  };
  const counted = () => `${(values.size + dropped).toLocaleString("en")} value${values.size + dropped === 1 ? "" : "s"}`;

  const open = () => {
    const source = new EventSource(`${list.dataset.live}&offset=${next}`);
    const over = (text, tone) => { source.close(); say(text, tone); };
    source.onopen = () => { pause = 1000; say(`live · ${counted()}`, "active"); };
    source.onmessage = (event) => {
      const offset = Number(event.lastEventId);
      next = offset + 1;
      if (values.has(offset)) return;
      values.set(offset, { json: event.data });
      if (values.size > most) {
        remove(values.keys().next().value);
        dropped += 1;
      }
      say(`live · ${counted()}`, "active");
      redraw();
    };
    source.addEventListener("rewind", (event) => {
      next = Number(event.lastEventId) + 1;
      const from = JSON.parse(event.data).offset;
      for (const offset of [...values.keys()]) if (offset >= from) remove(offset);
      say(`live · ${counted()}, after an attempt took some back`, "active");
      redraw();
    });
    source.addEventListener("parked", (event) => say(`parked · ${JSON.parse(event.data).status}`, "warn"));
    source.addEventListener("end", () => over(`ended · ${counted()}`, "good"));
    source.addEventListener("failed", (event) => {
      const { status } = JSON.parse(event.data);
      over(`ended · ${status} · ${counted()}`, status === "CANCELLED" ? "idle" : "bad");
    });
    source.onerror = () => {
      say(`connecting again · ${counted()}`, "warn");
      if (source.readyState !== EventSource.CLOSED) return; // the browser connects again by itself
      setTimeout(open, pause); // it was answered with an error, as long as the database is away
      pause = Math.min(pause * 2, 15000);
    };
  };

  asText.addEventListener("change", draw);
  open();
})();
