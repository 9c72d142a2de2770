// What the screens need of a script: times that people read, the news that the server does not answer, and what a refresh must keep.
"use strict";

(() => {
  const SECOND = 1000;
  const words = new Intl.RelativeTimeFormat("en", { numeric: "always", style: "short" });
  const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
  let ahead = 0; // how far the server's clock is ahead of this one

  const inWords = (seconds) => {
    const size = Math.abs(seconds);
    if (size < 1) return "now";
    const [unit, length] = UNITS.find(([, length]) => size >= length);
    return words.format(Math.trunc(seconds / length), unit);
  };

  const counting = (seconds) => {
    if (seconds <= 0) return "due now";
    const whole = Math.ceil(seconds);
    const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
    if (days) return `${days} d ${hours} h left`;
    if (hours) return `${hours} h ${minutes} min left`;
    return minutes ? `${minutes} min ${whole % 60} s left` : `${whole} s left`;
  };

  const tell = (root) => {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const seconds = (Date.parse(time.dateTime) - Date.now() - ahead) / SECOND;
      const text = time.classList.contains("countdown") ? counting(seconds) : inWords(seconds);
      if (time.textContent !== text) time.textContent = text;
    }
  };

  const trouble = document.getElementById("trouble");
  let known = new Date();
  const say = (text) => {
    const sentence = text && `${text} You see what was known at ${known.toLocaleTimeString()}.`;
    if (trouble.textContent !== sentence) trouble.textContent = sentence;
    trouble.hidden = !text;
  };

  const sentenceOf = (xhr) => {
    const isText = (xhr.getResponseHeader("content-type") ?? "").startsWith("text/plain");
    const told = isText
      ? xhr.responseText.slice(0, 300)
      : new DOMParser().parseFromString(xhr.responseText, "text/html").querySelector(".lead")?.textContent;
    return told || `The server answers with an error (${xhr.status}).`;
  };

  const selected = document.getElementById("selected");
  const countSelected = () => {
    if (selected) selected.textContent = `(${document.querySelectorAll('input[name="id"]:checked').length})`;
  };

  // A refresh puts a new part in the place of the old one: what was opened, selected and scrolled stays as it was.
  let kept = null;
  document.addEventListener("htmx:beforeSwap", (event) => {
    const live = event.detail.target;
    if (live.id !== "live") return;
    kept = {
      details: new Map([...live.querySelectorAll("details[id]")].map((one) => [one.id, one])),
      checked: new Set([...live.querySelectorAll("input[name=id]:checked")].map((one) => one.value)),
      scrolled: [...live.querySelectorAll("details[id] pre")].map((one) => [one.closest("details").id, one.scrollTop]),
      focused: live.contains(document.activeElement) ? pathOf(document.activeElement, live) : null,
    };
  });
  const pathOf = (element, root) => {
    const path = [];
    for (let one = element; one !== root; one = one.parentElement) path.unshift([...one.parentElement.children].indexOf(one));
    return { path, tag: element.tagName };
  };
  document.addEventListener("htmx:afterSwap", () => {
    const live = document.getElementById("live");
    if (kept) {
      for (const one of live.querySelectorAll("details[id]")) {
        const before = kept.details.get(one.id);
        if (!before) continue;
        const payload = before.querySelector(".payload");
        if (payload && before.open) one.replaceWith(before); // its content was fetched
        else one.open = before.open;
      }
      for (const [id, top] of kept.scrolled) {
        const pre = document.getElementById(id)?.querySelector("pre");
        if (pre) pre.scrollTop = top;
      }
      for (const one of live.querySelectorAll("input[name=id]")) one.checked = kept.checked.has(one.value);
      const focused = kept.focused?.path.reduce((one, index) => one?.children[index], live);
      if (focused && focused.tagName === kept.focused.tag) focused.focus({ preventScroll: true });
      kept = null;
    }
    tell(document);
    countSelected();
  });

  document.addEventListener("htmx:configRequest", (event) => {
    if (event.detail.triggeringEvent?.type !== "toggle" && document.hidden) event.preventDefault(); // nobody looks
    const chosen = document.getSelection();
    const live = document.getElementById("live");
    if (chosen && !chosen.isCollapsed && live?.contains(chosen.anchorNode) && event.detail.elt === live) event.preventDefault();
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    const status = event.detail.xhr.status;
    if (status >= 200 && status < 300) {
      known = new Date();
      say("");
    } else if (status) say(sentenceOf(event.detail.xhr));
    else say("The server does not answer. This page goes on when it is back.");
  });

  document.addEventListener("change", countSelected);
  for (const form of document.querySelectorAll("form[data-goes-on]")) {
    form.addEventListener("submit", () => form.querySelector("button").setAttribute("disabled", ""));
    setTimeout(() => form.requestSubmit(), 150);
  }
  // A second click on a button does not send a form twice.
  document.addEventListener("submit", (event) => {
    if (event.target.method !== "post") return;
    if (event.target.dataset.sent) event.preventDefault();
    event.target.dataset.sent = "yes";
    setTimeout(() => delete event.target.dataset.sent, 3000);
  });

  const served = document.querySelector('meta[name="server-time"]');
  if (served) ahead = Date.parse(served.content) - Date.now();
  if (Math.abs(ahead) < 2 * SECOND) ahead = 0;
  tell(document);
  countSelected();
  setInterval(() => document.hidden || tell(document), SECOND);
})();
