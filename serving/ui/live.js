// The events of the service, and whether they still come.

const KINDS = ["racecard", "result", "non_runner", "reinstated", "jockey_change", "going_change", "market", "tick"];
const AGAIN_MS = 3000;
const ASK_MS = 10_000;
const PATIENCE_MS = 5000;
const HEARS_MS = 500;
const AWAY = "the service does not answer";

/** Follow the events. `heard(event)` gets each, `again()` is called when some may have been missed, `state(why, since)`
 * whenever being live begins (null) or ends (a reason, and when it was last known to be live, by the browser's clock: the
 * service's is not known before it is asked). */
export class Live {
  constructor({ heard, again, state }) {
    Object.assign(this, { heard, again, state });
    this.lastGood = null;
    this.opened = false;
    // whether the page may have missed a message: those that come before it asks do not count
    this.missed = true;
    this.settle = null;
    this.why = { events: "connecting", ready: "connecting" };
    this.shown = undefined;
    this.source = null;
    this.askedAt = performance.now();
  }

  /** Begin. Without the id of an event, settles once events are heard, so that nothing is asked for twice, or after a moment.
   * With the id of the newest event before the page's answers, settles at once: the events after it are sent. */
  start(after) {
    const heard = new Promise((settle) => { this.settle = settle; });
    if (after) this.#begin(true);
    else setTimeout(() => this.#begin(false), HEARS_MS);
    this.#listen(after);
    this.#ask();
    setInterval(() => this.#ask(), ASK_MS);
    addEventListener("online", () => this.#ask());
    // a browser grants a service six connections: a page that nobody sees must not hold one
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) {
        this.source.close();
      } else {
        this.#listen();
        this.again();
      }
    });
    return heard;
  }

  #listen(after) {
    this.source?.close();
    const source = new EventSource(after ? `/v1/events?after=${after}` : "/v1/events");
    this.source = source;
    source.addEventListener("open", () => {
      this.#begin(true);
      this.#report("events", null);
      if (this.opened) this.again();
      this.opened = true;
    });
    source.addEventListener("error", () => {
      this.#begin(false);
      this.#report("events", AWAY);
      if (source.readyState === EventSource.CLOSED && source === this.source) setTimeout(() => this.#listen(), AGAIN_MS);
    });
    for (const kind of KINDS) {
      source.addEventListener(kind, (event) => {
        this.#report("events", null);
        this.heard(JSON.parse(event.data));
      });
    }
  }

  #begin(hearing) {
    if (this.settle === null) return;
    this.missed = !hearing;
    this.settle();
    this.settle = null;
  }

  async #ask() {
    // a connection that was cut silently, or during sleep, gives no sign: open it again
    const slept = performance.now() - this.askedAt > 3 * ASK_MS;
    const silent = this.why.ready === AWAY;
    this.askedAt = performance.now();
    try {
      const answer = await fetch("/readyz", { signal: AbortSignal.timeout(PATIENCE_MS), cache: "no-store" });
      const ready = await answer.json();
      if ((slept || silent) && !document.hidden) this.#listen();
      this.#report("ready", reason(ready));
    } catch {
      this.#report("ready", AWAY);
    }
  }

  #report(what, why) {
    const before = this.why.events ?? this.why.ready;
    this.why[what] = why;
    const after = this.why.events ?? this.why.ready;
    if (after === null) this.lastGood = Date.now();
    if (after === this.shown && after !== null) return;
    this.shown = after;
    this.state(after, this.lastGood);
    if (before !== null && after === null && this.missed) this.again();
    if (after !== "connecting") this.missed = true;
  }
}

function reason(ready) {
  if (ready.redis !== "ok") return ready.redis;
  if (ready.stream.startsWith("catching up")) return `the stream is ${ready.stream}`;
  return ready.stream === "none has run here" ? "no stream runs here, so the page does not update by itself" : null;
}
