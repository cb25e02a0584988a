// Numbers and instants as they are read. Unknown is a dash, never a nought.

export const DASH = "–";
const MINUS = "−";
const OLD_ODDS_MS = 10 * 60_000;
const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

let zone = "UTC";
let asked = { here: 0, there: 0, speed: 1 };
let units = "furlongs and stones";

/** Read instants in a time zone, and now by the service's clock, which may pass `speed` times as fast. */
export function setClock(timezone, serverNow, speed = 1) {
  zone = timezone;
  asked = { here: Date.now(), there: Date.parse(serverNow), speed };
}

export const UNITS = ["furlongs and stones", "metres and kilograms"];
export function setUnits(chosen) {
  units = chosen;
}

export const now = () => byService(Date.now());
/** An instant of the browser's clock by the service's. */
export const byService = (ms) => asked.there + (ms - asked.here) * asked.speed;

const formats = new Map();
/** An instant in a time zone. A format takes longer to make than to use, and a page writes a hundred times: each is kept. */
function written(instant, options, timeZone = zone, locale = "en-GB") {
  const name = `${locale} ${timeZone} ${JSON.stringify(options)}`;
  if (!formats.has(name)) formats.set(name, new Intl.DateTimeFormat(locale, { timeZone, ...options }));
  return formats.get(name).format(new Date(instant));
}
const MINUTE = { hour: "2-digit", minute: "2-digit" };
export const clock = (instant) => written(instant, MINUTE);
// the first format of a page takes longest, and is made while the page's answers are still to come
clock(0);
export const clockS = (instant) => written(instant, { ...MINUTE, second: "2-digit" });
/** A reason as the service gives it, its instants by the clock here. */
export const inReason = (text) => text.replace(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z/g, (instant) => clockS(instant));
const DAY = { day: "numeric", month: "short", year: "numeric" };
export const day = (instant) => written(instant, DAY);
/** The day a number of days after 1970-01-01: a local date already. */
export const dayNumber = (days) => written(days * 86_400_000, DAY, "UTC");
/** The local date (2023-06-01) of an instant. */
export const localDate = (instant) => written(instant, { year: "numeric", month: "2-digit", day: "2-digit" }, zone, "en-CA");
export const zoneName = () => zone;

/** A local date (2023-06-01) in words. */
export const dateWords = (date) => written(`${date}T00:00:00Z`, { weekday: "long", day: "numeric", month: "long", year: "numeric" }, "UTC");

/** The local date some days from another. */
export function dateAfter(date, days) {
  return new Date(Date.parse(`${date}T00:00:00Z`) + days * 86_400_000).toISOString().slice(0, 10);
}

export function span(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 100) return `${s} s`;
  if (s < 100 * 60) return `${Math.round(s / 60)} min`;
  if (s < 48 * 3600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86_400)} days`;
}
export const ago = (instant) => `${span(now() - Date.parse(instant))} old`;
export const oldOdds = (instant, until) => (until ?? now()) - Date.parse(instant) > OLD_ODDS_MS;

/** How long until a race, or what became of it. */
export function countdown(race) {
  const left = Date.parse(race.off_time) - now();
  if (race.status === "run") return race.winners.length ? "result" : "void";
  if (left <= 0) return `off ${span(-left)} ago`;
  const s = Math.ceil(left / 1000);
  if (s < 600) return `in ${Math.floor(s / 60)}:${String(s % 60).padStart(2, "0")}`;
  if (s < 3600) return `in ${Math.floor(s / 60)} min`;
  return `in ${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")} min`;
}

export const percent = (value, digits = 1) => (known(value) ? `${(100 * value).toFixed(digits)}\u00a0%` : DASH);
export function signed(value, digits = 1, unit = "") {
  if (!known(value)) return DASH;
  const text = Math.abs(value).toFixed(digits);
  // what rounds to zero has no sign
  return `${Number(text) === 0 ? "" : value < 0 ? MINUS : "+"}${text}${unit}`;
}
export function odds(value) {
  if (!known(value)) return DASH;
  return value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);
}
export const number = (value, digits = 2) => (known(value) ? value.toFixed(digits) : DASH);
export const whole = (value) => (known(value) ? value.toLocaleString("en-GB") : DASH);

const YARD_M = 0.9144;
const LB_KG = 0.45359237;
const metric = () => units === UNITS[1];

/** A distance: `1m 2f 110y` or `2,100 m`; yards only where they are five or more. */
export function distance(metres) {
  if (!known(metres)) return null;
  if (metric()) return `${whole(Math.round(metres))}\u00a0m`;
  let yards = Math.round(metres / YARD_M);
  const over = yards % 220;
  yards += over >= 215 ? 220 - over : over < 5 ? -over : 0;
  const [miles, furlongs, rest] = [Math.floor(yards / 1760), Math.floor((yards % 1760) / 220), yards % 220];
  return [miles ? `${miles}m` : "", furlongs ? `${furlongs}f` : "", rest ? `${rest}y` : ""].filter(Boolean).join("\u00a0");
}

/** A weight: `9-07` in stones and pounds, or kilograms. */
export function weight(pounds) {
  if (!known(pounds)) return null;
  if (metric()) return `${(pounds * LB_KG).toFixed(1)}\u00a0kg`;
  const whole = Math.round(pounds);
  return `${Math.floor(whole / 14)}-${String(whole % 14).padStart(2, "0")}`;
}
export const signedWeight = (pounds) => (metric() ? signed(pounds * LB_KG, 1, "\u00a0kg") : signed(pounds, 0, "\u00a0lb"));
export const signedDistance = (metres) => (metric() ? signed(metres, 0, "\u00a0m") : `${metres < 0 ? MINUS : "+"}${distance(Math.abs(metres)) || "0f"}`);
/** A fraction such as 0.25 as 1/4. */
export const fraction = (value) => `1/${Math.round(1 / value)}`;
/** A local date (2023-06-01) as 1 Jun 23. */
export const dayShort = (date) => written(`${date}T00:00:00Z`, { day: "numeric", month: "short", year: "2-digit" }, "UTC");

/** What a stake of 1 returns beyond itself on average, after commission on winnings. */
export function edge(chance, price, commission) {
  return known(chance) && known(price) ? chance * (1 + (price - 1) * (1 - commission)) - 1 : null;
}

const VIEWS = {
  trainer_velocity: "trainer",
  jockey_velocity: "jockey",
  partnership_velocity: "trainer with jockey",
  horse_form: "horse",
  horse_course: "horse at the course",
  horse_distance: "horse over the distance",
  horse_going: "horse on the going",
  draw_bias: "draw",
  horse_ability: "horse against odds and clock",
  jockey_course: "jockey at the course",
  horse_course_distance: "horse at course and distance",
  horse_elo: "horse's Elo",
  jockey_elo: "jockey's Elo",
  trainer_elo: "trainer's Elo",
  draw_elo: "draw's Elo",
  horse_running: "horse in running",
};
export const views = (names) => names.map((name) => VIEWS[name] ?? name).join(", ");
export const plural = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

/** A race in one line. */
export function about(race) {
  return [
    race.race_no === null ? null : `race ${race.race_no}`,
    race.race_class === null ? null : `class ${race.race_class}`,
    distance(race.distance_m),
    race.surface,
    race.going,
  ].filter(Boolean);
}
