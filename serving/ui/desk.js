// The desk: which page the address asks for, what it needs, and what changes of it as messages arrive.

import { curvesPage } from "./curves.js";
import { SHOWN, VIEWS, dayPage, nextRace, rail } from "./day.js";
import { h, put } from "./dom.js";
import { keys } from "./keys.js";
import { Live } from "./live.js";
import { Picks } from "./picks.js";
import { COMMISSIONS, LINES, ORDERS, held, racePage } from "./race.js";
import { searching } from "./search.js";
import * as w from "./words.js";

const AT_ONCE_MS = 10;
const SOON_MS = 150;
const LATER_MS = 3000;
const PROMPT_MS = 400;
const PATIENCE_MS = 10_000;
const DAY_MS = 60_000;
const place = (id) => document.getElementById(id);
const kept = {
  get(name, among, otherwise = among[0]) {
    try { return among.includes(localStorage.getItem(name)) ? localStorage.getItem(name) : otherwise; } catch { return otherwise; }
  },
  set(name, value) { try { localStorage.setItem(name, value); } catch { /* a browser that keeps nothing */ } },
};
const state = {
  day: null, card: null, scored: null, form: null, combinations: null, refused: null, before: new Map(), curves: null, record: null, curvesRefused: null,
  order: kept.get("order", ORDERS), commission: kept.get("commission", COMMISSIONS), since: "year", course: "",
  view: kept.get("view", VIEWS), shown: kept.get("shown", SHOWN), units: kept.get("units", w.UNITS),
  lines: kept.get("lines", LINES, innerWidth < 640 ? "brief" : "full"),
};
w.setUnits(state.units);
// the answers that come with the page, each until it is used, and the newest event before them
let sent = {};
let asked = 0;
// a race that is being opened is drawn once, with all that is there by then
let opening = false;
const waiting = new Map();

const address = () => new URL(location.href);
const kind = () => address().pathname.slice(1);
const id = () => address().searchParams.get("id") ?? "";
const dateAsked = () => /^\d{4}-\d{2}-\d{2}$/.exec(address().searchParams.get("date") ?? "")?.[0] ?? null;

/** An answer of the service: its `body`, or `refused` with the reason. The first of a `name` may have come with the page. */
async function ask(path, name) {
  if (sent[name]) {
    const body = sent[name];
    delete sent[name];
    return { body };
  }
  try {
    const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    const body = await answer.json();
    return answer.ok ? { body } : { refused: body.detail ? w.inReason(body.detail) : `the service answers ${answer.status}`, again: answer.status === 503 };
  } catch (failed) {
    const late = failed.name === "TimeoutError";
    return { refused: late ? `the service did not answer within ${PATIENCE_MS / 1000} s` : "the service does not answer", again: true };
  }
}

const pause = (ms) => new Promise((ended) => setTimeout(ended, ms));

/** Do something soon, once, however often it is asked for meanwhile: as soon as the most urgent wants it. */
function soon(what, after = SOON_MS) {
  const due = performance.now() + after;
  const set = waiting.get(what);
  if (set && set.due <= due) return;
  clearTimeout(set?.timer);
  waiting.set(what, { due, timer: setTimeout(() => { waiting.delete(what); what(); }, after) });
}

async function loadDay() {
  const date = dateAsked() ?? (kind() === "race" && state.card ? w.localDate(state.card.off_time) : null);
  const { body, refused } = await ask(date ? `/v1/races?date=${date}` : "/v1/races", "day");
  if (body) {
    w.setClock(body.timezone, body.now, body.speed);
    const same = JSON.stringify({ ...body, now: null }) === JSON.stringify({ ...state.day, now: null });
    state.day = body;
    state.dayRefused = null;
    showModel(body.model);
    place("simulated").hidden = !body.simulated;
    if (kind() === "") picks.want(body);
    if (same && place("main").querySelector("h1")) return;
  } else {
    state.dayRefused = refused;
  }
  if (!opening) draw();
}

async function loadRace() {
  if (kind() !== "race") return;
  const race = id();
  const turn = ++asked;
  const path = `/v1/races/${encodeURIComponent(race)}`;
  const gone = () => turn !== asked || kind() !== "race" || id() !== race;
  const scoring = ask(`${path}/score?drivers=true`, "score");
  if (state.formOf !== race) loadForm(race, path);
  const card = await ask(path, "card");
  if (gone()) return;
  if (card.body) state.card = card.body;
  else if (state.card?.race_id !== race) state.card = null;
  state.missing = card.refused ?? null;
  // a score out of the history may take seconds: who runs is shown meanwhile
  if (card.body && !state.scored && !state.refused && (await Promise.race([scoring, pause(PROMPT_MS)])) === undefined && !gone()) drawOpened();
  const scored = await scoring;
  if (gone()) return;
  if (scored.body) {
    if (scored.body.race_id === state.scored?.race_id && scored.body.fingerprint !== state.scored.fingerprint)
      state.before = new Map(state.scored.runners.map((runner) => [runner.horse_id, held(runner)]));
    state.scored = scored.body;
    showModel({ version: scored.body.model, gate: scored.body.gate, mode: scored.body.mode });
    if (state.combinations?.pool) soon(combine);
  }
  state.refused = scored.refused ?? (card.refused && state.card ? card.refused : null);
  if (scored.again || card.again) soon(loadRace, LATER_MS);
  drawOpened();
}

function drawOpened() {
  opening = false;
  draw();
}

/** The form lines of a race and its odds so far; without them the rest of the page is shown. */
async function loadForm(race, path) {
  state.formOf = race;
  const { body, again } = await ask(`${path}/form`, "form");
  if (kind() !== "race" || id() !== race) return;
  state.form = body ?? null;
  if (again) setTimeout(() => { if (id() === race) loadForm(race, path); }, LATER_MS);
  if (body && state.card && !opening) draw();
}

/** The likeliest combinations of a pool of the race that is open. */
async function wanted(pool) {
  const race = id();
  const { body, refused } = await ask(`/v1/races/${encodeURIComponent(race)}/combinations?pool=${encodeURIComponent(pool)}&most=12`);
  if (kind() !== "race" || id() !== race) return;
  state.combinations = body ?? { pool, refused };
  draw();
}
const combine = () => wanted(state.combinations.pool);

async function loadCurves() {
  const what = kind();
  if (!["horse", "trainer", "jockey"].includes(what)) return;
  const turn = ++asked;
  const year = new Date(w.now() - 365 * 86_400_000).toISOString();
  const since = state.since === "year" && what !== "horse" ? `?since=${encodeURIComponent(year)}` : "";
  const path = `/v1/${what}s/${encodeURIComponent(id())}`;
  const [curves, record] = await Promise.all([ask(`${path}/history${since}`), ask(`${path}/record`)]);
  if (turn !== asked) return;
  state.curves = curves.body ?? null;
  state.record = record.body ?? null;
  state.curvesRefused = (curves.body || record.body) ? null : curves.refused;
  draw();
}

/** Read the address, and fetch what its page shows. */
async function arrive() {
  Object.assign(state, { card: null, scored: null, form: null, formOf: null, combinations: null, refused: null, missing: null, before: new Map(), curves: null, record: null, curvesRefused: null });
  put(place("main"), h("p", { class: "quiet" }, "Asking…"));
  asked += 1;
  opening = kind() === "race";
  if (opening) {
    await Promise.all([state.day ? null : loadDay(), loadRace()]);
    if (state.card && state.day && !state.day.races.some((race) => race.race_id === state.card.race_id)) await loadDay();
    return;
  }
  // the curves are asked for by the service's clock
  if (!state.day || kind() === "") await loadDay();
  await loadCurves();
}

function go(href) {
  sent = {};
  history.pushState(null, "", href);
  arrive();
  scrollTo(0, 0);
  place("main").focus({ preventScroll: true });
}

function choose(name, value) {
  state[name] = value;
  if (name === "since") loadCurves();
  else kept.set(name, value);
  if (name === "units") w.setUnits(value);
  draw();
}

/** Show the races of one course; "" shows all. */
function filter(course) {
  state.course = course;
  draw();
}

const turnOver = (name, among) => choose(name, among[(among.indexOf(state[name]) + 1) % among.length]);

function beside() {
  const races = state.day?.races ?? [];
  const at = races.findIndex((race) => race.race_id === id());
  const today = state.day?.date === w.localDate(w.now());
  return { before: races[at - 1], after: at < 0 ? undefined : races[at + 1], day: today || !state.day ? "/" : `/?date=${state.day.date}` };
}

let height = 0;
/** Keep what sticks below the head of the page below it. */
function fit() {
  const now = document.querySelector(".top").offsetHeight;
  if (now === height) return;
  height = now;
  document.documentElement.style.setProperty("--top", `${height}px`);
}

function draw() {
  const main = place("main");
  const what = kind();
  // before the rest is put: a style of the root that changes later styles all of the page again
  showNext();
  fit();
  const aside = place("rail");
  aside.hidden = what !== "race" || !state.day?.races.length;
  const scrolled = aside.firstElementChild?.scrollTop ?? 0;
  if (!aside.hidden) put(aside, rail(state.day, id()));
  if (what === "race") {
    if (state.card) {
      put(main, racePage({ ...state, beside: beside(), choose, wanted }));
      document.title = `${w.clock(state.card.off_time)} ${state.card.course} – VÉLØ desk`;
    } else if (state.missing) put(main, refusal("This race cannot be shown", state.missing));
  } else if (what) {
    if (state.curves || state.record) {
      put(main, curvesPage({ curves: state.curves, record: state.record, since: state.since, choose }));
      document.title = `${(state.curves ?? state.record).name ?? id()} – VÉLØ desk`;
    } else if (state.curvesRefused) put(main, refusal("This page cannot be shown", state.curvesRefused));
  } else if (state.day) {
    put(main, dayPage(state.day, state.day.date === w.localDate(w.now()), { ...state, picks: picks.known, choose, filter }));
    document.title = "VÉLØ desk";
  } else if (state.dayRefused) put(main, refusal("The races cannot be shown", state.dayRefused));
  tick();
  // last: it needs the layout of all that was put
  if (!aside.hidden) {
    aside.firstElementChild.scrollTop = scrolled;
    if (state.railed !== id()) inSight(aside.querySelector("[aria-current]"), aside.firstElementChild);
    state.railed = id();
  }
}

/** Scroll a list, and nothing around it, to where one of its entries is in the middle. */
function inSight(entry, list) {
  if (entry) list.scrollTop += entry.getBoundingClientRect().top - list.getBoundingClientRect().top - list.clientHeight / 2;
}

const refusal = (title, why) => [h("h1", {}, title), h("p", { class: "flag warn", role: "alert" }, why),
  h("p", {}, h("a", { href: "/" }, "today's races"))];

function showModel(model) {
  const text = model ? [h("b", {}, model.version), " ", h("span", { class: "gate" }, `gate: ${model.gate}`), " ", h("b", { class: model.mode === "paper only" ? "mode paper" : "mode" }, model.mode)]
    : [h("b", { class: "warn" }, "none"), ", so nothing is scored"];
  place("model").replaceChildren(h("span", { class: "label" }, "model "), ...text);
}

/** What passes with the clock alone: countdowns and ages. */
function tick() {
  place("clock").textContent = w.clockS(w.now());
  const races = new Map((state.day?.races ?? []).map((each) => [each.race_id, each]));
  if (state.card) races.set(state.card.race_id, state.card);
  for (const shown of document.querySelectorAll("[data-off]")) {
    const race = races.get(shown.dataset.off);
    if (race) rewrite(shown, w.countdown(race));
    if (race?.status === "to come" && Date.parse(race.off_time) < w.now()) { soon(loadDay, LATER_MS); soon(loadRace, LATER_MS); }
  }
  for (const shown of document.querySelectorAll("[data-age]")) rewrite(shown, w.ago(shown.dataset.age));
  showNext();
}

/** Always in sight: the time left until the race that is open, or else the next. */
function showNext() {
  const race = kind() === "race" && state.card ? state.card : nextRace(state.day?.races ?? []);
  const next = place("next");
  next.hidden = !race;
  if (!race) return;
  next.href = `/race?id=${encodeURIComponent(race.race_id)}`;
  rewrite(next, `${w.clock(race.off_time)} ${race.course} ${w.countdown(race)}`);
}
const rewrite = (place, text) => { if (place.textContent !== text) place.textContent = text; };

/** Messages that are complete when they arrive; rows of features follow a result a moment later. */
const CARD = ["non_runner", "reinstated", "jockey_change", "going_change", "market", "racecard"];

function heard(event) {
  soon(loadDay);
  const mine = kind() === "race" && event.race_id === id();
  // another race's result changes the form of this one's horses and people, a tick their windows
  if (mine && CARD.includes(event.type)) soon(loadRace, AT_ONCE_MS);
  else if (mine || (kind() === "race" && ["result", "tick"].includes(event.type))) soon(loadRace);
  if (event.type === "result" && kind() === "race") soon(settled, LATER_MS);
  // from a clock that is ahead of the service's: it shows there once its instant has come
  const wait = Date.parse(event.known_at) - w.now();
  if (wait > 0 && wait < DAY_MS) setTimeout(() => { soon(loadDay); soon(loadRace); }, wait + SOON_MS);
  if (mine) say(event);
}
const settled = () => loadRace();
const picks = new Picks({ ask, changed: () => { if (kind() === "") soon(draw); } });

function say(event) {
  const words = { non_runner: "A non-runner: the chances have changed.", reinstated: "A withdrawal is taken back: the chances have changed.", jockey_change: "A change of jockey.", result: "The result is in.",
    going_change: "The going has changed.", racecard: "A new card.", market: "New odds." }[event.type];
  if (words) place("said").textContent = `${w.clock(event.known_at)}: ${words}`;
}

function showLive(why, since) {
  const live = place("live");
  live.className = why === null ? "live" : "live lost";
  document.body.classList.toggle("lost", why !== null && why !== "connecting");
  live.textContent = why === null ? "live" : why === "connecting" ? "connecting…"
    : `${since === null ? "not live" : `not live since ${w.clock(w.byService(since))}`}: ${w.inReason(why)}`;
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  // a page without a script of its own is loaded
  if (link.pathname === "/monitor") return;
  event.preventDefault();
  if (link.classList.contains("skip")) place("main").focus();
  else if (link.id === "next" && kind() === "race" && state.card) scrollTo(0, 0);
  else go(link.getAttribute("href"));
});
addEventListener("popstate", arrive);
addEventListener("resize", () => { if (state.curves) soon(draw); });
searching({ box: place("search"), list: place("found"), ask, go });
keys({ go, search: place("search"), help: place("help"), beside, order: () => turnOver("order", ORDERS), commission: () => turnOver("commission", COMMISSIONS) });
place("help-button").addEventListener("click", () => place("help").showModal());

new ResizeObserver(fit).observe(document.querySelector(".top"));

const live = new Live({ heard, state: showLive, again: () => { soon(loadDay); soon(loadRace); } });
// the script runs while the page's answers are still to come: they are the last of it
document.addEventListener("DOMContentLoaded", () => {
  sent = JSON.parse(place("answers").textContent);
  live.start(sent.event).then(arrive).then(() => { sent = {}; });
  setInterval(tick, 1000);
  setInterval(loadDay, DAY_MS);
});
