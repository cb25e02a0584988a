// The page of a horse, a trainer or a jockey: its record in figures, its curves, and the changes they are drawn from.

import { chart } from "./charts.js";
import { h, link, named } from "./dom.js";
import { listed, runsTable } from "./form.js";
import * as w from "./words.js";

const SHOWN = 30;
const WINDOWS = ["14d", "30d", "90d"];
const VELOCITY = [
  { title: "Strike rate", note: "wins from runs", of: "sr", read: (v) => w.percent(v), tick: (v) => w.percent(v, 0), floor: 0 },
  { title: "Wins against the market's expectation", note: "1 is what the odds implied", of: "ae", read: (v) => w.number(v), floor: 0, at: 1 },
  { title: "Rivals beaten", note: "50 % is an average runner", of: "prb", read: (v) => w.percent(v, 0), at: 0.5 },
  { title: "Runs", note: "in the window", of: "runs", read: (v) => w.whole(v), floor: 0 },
];
const FORM = [
  { title: "Rivals beaten", note: "each run a dot, the line weighs late runs most; 50 % is average", lines: ["prb_ewma"], dots: "prb_last",
    read: (v) => w.percent(v, 0), floor: 0, at: 0.5, ceiling: 1 },
  { title: "What the market thought", note: "expected wins against an average runner of the race, which is 1", lines: ["market_ewma"], dots: "market_last",
    read: (v) => `${w.number(v, 1)}×`, floor: 0, at: 1 },
  { title: "Official rating", note: "at each run", lines: ["last_rating"], read: (v) => w.whole(v) },
  { title: "Strike rate, career", note: "wins from starts", lines: ["sr"], read: (v) => w.percent(v), tick: (v) => w.percent(v, 0), floor: 0 },
];
const NAMES = { sr: "won", ae: "A/E", prb: "rivals beaten", runs: "runs", prb_ewma: "lately", market_ewma: "lately", last_rating: "rating" };

/** The page. `curves` is the service's history, `record` its record, either may be null; `since` the part of the history shown. */
export function curvesPage({ curves, record, since, choose }) {
  const at = new Map((curves?.features ?? []).map((each, place) => [each.name, place]));
  const last = curves?.points.at(-1);
  const value = (name) => (last ? last.values[at.get(name)] : null);
  const kind = (curves ?? record).kind;
  return [
    h("div", { class: "head" }, h("h1", {}, named((record ?? curves).name ?? (curves ?? record).id)),
      h("p", { class: "facts" }, curves ? `${kind} · ${curves.about}` : kind)),
    record ? coming(record) : null,
    curves && !last ? h("p", { class: "empty" }, "No start is known yet.") : null,
    last ? h("dl", { class: "figures" }, kind === "horse" ? career(value) : windows(value)) : null,
    record && record.starts ? recordTables(record) : null,
    kind === "horse" || !last ? null : choices(since, choose),
    last ? h("div", { class: "charts" }, drawn(curves, at), kind === "horse" && record ? ratings(record) : null) : null,
    record && record.starts ? runsTable(kind === "horse" ? `Every start, latest first (${record.starts})` : `Last starts (${Math.min(30, record.runs.length)} of ${record.starts})`, kind === "horse" ? record.runs : record.runs.slice(0, 30),
      { horse: kind !== "horse", people: kind !== "jockey", rated: kind === "horse" }) : null,
    last && kind !== "horse" ? changes(curves, at) : null,
    last ? standing(curves, last) : null,
  ];
}

/** The races of today and later, the next first. */
function coming(record) {
  if (!record.coming.length) return null;
  const ordered = [...record.coming].sort((a, b) => Date.parse(a.off_time) - Date.parse(b.off_time));
  return listed(record.kind === "horse" ? "Next race" : "Runners today and later", ["Off", "Race", record.kind === "horse" ? "Jockey" : "Horse", "Class, distance, going", "State or winner"],
    ordered.map((race) => h("tr", {},
      h("th", { scope: "row" }, `${w.clock(race.off_time)}, ${w.day(race.off_time)}`),
      h("td", {}, link("/race", race.race_id, named(race.course), race.race_name ? ` ${race.race_name}` : "")),
      h("td", {}, record.kind === "horse" ? named(race.jockey) : link("/horse", race.horse_id, named(race.horse))),
      h("td", {}, w.about(race).join(" · ")),
      h("td", {}, race.status === "run" ? race.winners.map((winner) => winner.horse).join(", ") : w.countdown(race)))));
}

const BY = { course: "Course", distance: "Distance", going: "Going", headgear: "Headgear", month: "Month" };

function recordTables(record) {
  return h("div", { class: "records" }, record.records.filter((table) => table.lines.length).map((each) =>
    listed(`By ${each.by}`, [BY[each.by], "Starts", "Won", "Rate", "Placed"], each.lines.slice(0, 12).map((line) => h("tr", {},
      h("th", { scope: "row" }, named(line.name)), h("td", { class: "figure" }, w.whole(line.starts)), h("td", { class: "figure" }, w.whole(line.wins)),
      h("td", { class: "figure" }, w.percent(line.wins / line.starts, 0)), h("td", { class: "figure" }, w.whole(line.places)))))));
}

/** Curves of what a horse's starts were worth: a step after each result. */
function ratings(record) {
  const points = (name) => [...record.runs].reverse().filter((run) => run[name] !== null).map((run) => [Date.parse(`${run.race_date}T12:00:00Z`), run[name]]);
  const end = Date.parse(record.as_of);
  const kinds = [["elo", "Elo rating", "after each start; 0 is an average runner", (v) => w.signed(v)], ["figure", "Figure", "pounds, of each start", (v) => w.number(v, 0)]];
  return kinds.map(([name, title, note, read]) => {
    const found = points(name);
    return found.length ? chart({ title, note, curves: [{ name, points: found }], read, end }) : null;
  });
}

function standing(curves, last) {
  const stale = last.valid_until !== null && Date.parse(last.valid_until) <= Date.parse(curves.as_of);
  const shown = curves.points.length < curves.rows ? `, ${w.whole(curves.points.length)} of them drawn` : "";
  return h("p", { class: stale ? "state warn" : "state" },
    `${w.whole(curves.rows)} changes${shown}, the last at ${w.clock(last.at)} on ${w.day(last.at)}.`,
    stale ? ` Stale: a window moved on at ${w.clock(last.valid_until)} on ${w.day(last.valid_until)} and nothing was written since.` : "");
}

function choices(since, choose) {
  return h("div", { class: "controls" }, h("fieldset", {}, h("legend", {}, "Show"), [["year", "the last year"], ["all", "everything"]].map(([value, text]) =>
    h("label", {}, h("input", { type: "radio", name: "since", value, checked: value === since, "data-key": `since ${value}`,
      on: { change: () => choose("since", value) } }), " ", text))));
}

const figure = (name, text, more) => h("div", {}, h("dt", {}, name), h("dd", {}, text, more ? h("small", {}, more) : null));

function career(value) {
  return [
    figure("starts", w.whole(value("starts"))), figure("won", w.whole(value("wins")), w.percent(value("sr"))),
    figure("placed", w.whole(value("places")), w.percent(value("place_rate"))),
    figure("rivals beaten lately", w.percent(value("prb_ewma"), 0), `best ${w.percent(value("prb_best"), 0)}`),
    figure("trend a run", w.signed(value("prb_slope"), 2)), figure("runs in 90 days", w.whole(value("runs_90d"))),
  ];
}

function windows(value) {
  return WINDOWS.map((days) => figure(`last ${days.slice(0, -1)} days`, `${w.whole(value(`wins_${days}`))} from ${w.whole(value(`runs_${days}`))}`,
    `${w.percent(value(`sr_${days}`))} · A/E ${w.number(value(`ae_${days}`))} · placed ${w.percent(value(`place_rate_${days}`), 0)}`));
}

function drawn(curves, at) {
  const curve = (name, label) => ({ name: label, points: curves.points.map((point) => [Date.parse(point.at), point.values[at.get(name)]]) });
  const end = Date.parse(curves.as_of);
  if (curves.kind !== "horse")
    return VELOCITY.map((drawing) => chart({ ...drawing, end, curves: WINDOWS.map((days) => curve(`${drawing.of}_${days}`, `${days.slice(0, -1)} days`)) }));
  return FORM.map((drawing) => chart({ ...drawing, end, curves: drawing.lines.map((name) => curve(name, NAMES[name] ?? name)),
    dots: drawing.dots ? starts(curves, at).map((row) => [dayOf(row.values[at.get("last_race_day")]), row.values[at.get(drawing.dots)]]) : [] }));
}

const dayOf = (days) => days * 86_400_000;

/** The rows that a new start made: its day is later than that of the row before. */
function starts(curves, at) {
  const day = at.get("last_race_day");
  return curves.points.filter((point, place) => point.values[day] !== null && point.values[day] !== (curves.points[place - 1]?.values[day] ?? null));
}

function changes(curves, at) {
  const all = [...curves.points].reverse();
  const of = (each, name) => each.values[at.get(name)];
  const row = (each) => h("tr", {}, h("th", { scope: "row" }, `${w.day(each.at)}, ${w.clock(each.at)}`), WINDOWS.flatMap((days) => [
    h("td", {}, `${of(each, `wins_${days}`)} from ${of(each, `runs_${days}`)}`), h("td", {}, w.number(of(each, `ae_${days}`)))]));
  return listed(`The changes, latest first${all.length > SHOWN ? ` (${SHOWN} of ${all.length})` : ""}`,
    ["From", ...WINDOWS.flatMap((days) => [`${days.slice(0, -1)} days`, "A/E"])], all.slice(0, SHOWN).map(row));
}
