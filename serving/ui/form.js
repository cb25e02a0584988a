// What a racecard prints beside a runner: its form line, its records, and how its price has moved.

import { h, named } from "./dom.js";
import * as w from "./words.js";

const MARKS = {
  C: "won at this course", D: "won over this distance", CD: "won at this course over this distance", BF: "beaten favourite in its last race",
};
const SPARK = { width: 96, height: 24 };

/** The form line under a horse's name. `line` is the service's, `figures` are those of its score; either may be missing. */
export function formLine(line, figures) {
  if (!line) return null;
  return h("p", { class: "form" },
    line.figures
      ? [h("span", { class: "heard" }, "last finishes: "), h("b", { class: "finishes", title: "last finishes, the latest on the right" }, line.figures)]
      : h("span", { class: "quiet" }, "no start known"),
    line.days === null ? null : h("small", { title: "days since its last run" }, ` ${line.days}\u00a0d `),
    line.marks.map((mark) => [" ", h("abbr", { class: "form-mark", title: MARKS[mark] }, mark)]),
    figures ? h("small", { class: "won" }, ` ${records(figures)}`) : null);
}

/** Wins of starts, here and elsewhere, and what changed since the last run. */
function records(figures) {
  const won = (name, label) => (figures[name] ? `${label} ${figures[name][1]}/${figures[name][0]}` : null);
  const records = [won("career", "won"), won("course", "course"), won("distance", "distance"), won("going", "going")].filter(Boolean);
  return records.join(" · ");
}

/** What is other than in its last run: weight, rating, class, distance. */
export function sinceLast(figures) {
  if (!figures) return null;
  const { weight_change_lbs: weight, rating_change: rating, class_change: easier, distance_change_m: further } = figures;
  const parts = [
    weight ? `${w.signedWeight(weight)}` : null,
    rating ? `rating ${w.signed(rating, 0)}` : null,
    easier ? `${w.plural(Math.abs(easier), "class", "classes")} ${easier > 0 ? "down" : "up"}` : null,
    further ? `${w.signedDistance(further)}` : null,
  ].filter(Boolean);
  return parts.length ? h("small", { class: "since" }, `since last run: ${parts.join(" · ")}`) : null;
}

/** A person's wins of the last 30 days, in per cent of the runs. */
export function strikeRate(record) {
  if (!record || !record[0]) return null;
  return h("small", { class: "rate", title: `${record[1]} winners of ${record[0]} runs in 30 days` }, ` ${w.percent(record[1] / record[0], 0)}`);
}

/** The odds of one horse over time, shorter odds higher, with the odds at which its chance breaks even as a dotted line. */
export function sparkline(prices, horse, latest, fair) {
  const points = prices.filter((price) => price.prices[horse] > 1).map((each) => [Date.parse(each.known_at), each.prices[horse]]);
  if (latest && latest[1] > 1 && latest[0] > (points.at(-1)?.[0] ?? 0)) points.push(latest);
  if (points.length < 2) return null;
  const values = [...points.map(([, price]) => Math.log(price)), ...(fair > 1 ? [Math.log(fair)] : [])];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const [from, to] = [points[0][0], points.at(-1)[0]];
  const x = (ms) => (1 + ((SPARK.width - 2) * (ms - from)) / (to - from || 1)).toFixed(1);
  const y = (price) => (2 + ((SPARK.height - 4) * (Math.log(price) - low)) / (high - low || 1)).toFixed(1);
  const path = points.map(([ms, price], at) => (at ? `H${x(ms)}V${y(price)}` : `M${x(ms)} ${y(price)}`)).join("");
  const words = `price from ${w.odds(points[0][1])} at ${w.clock(from)} to ${w.odds(points.at(-1)[1])} at ${w.clock(to)}`;
  return h("svg", { class: "spark", viewBox: `0 0 ${SPARK.width} ${SPARK.height}`, role: "img", "aria-label": words },
    h("title", {}, fair > 1 ? `${words}; dotted: fair at ${w.odds(fair)}` : words),
    fair > 1 ? h("path", { class: "at", d: `M0 ${y(fair)}H${SPARK.width}` }) : null,
    h("path", { class: "line lone", d: path }));
}

const cell = (text, kind) => h("td", { class: kind }, text ?? w.DASH);

/** A table of past starts, latest first, each with a link to its race. */
export function runsTable(title, runs, { horse = true, people = true, rated = false } = {}) {
  const columns = ["Date", "Course", horse ? "Horse" : null, "Class", "Distance", "Going", "Came", "Beaten", "SP", "Weight", people ? "Jockey" : null, "Rated",
    rated ? "Elo after" : null, rated ? "Figure" : null].filter(Boolean);
  const row = (run) => h("tr", {},
    h("th", { scope: "row" }, h("a", { href: `/race?id=${encodeURIComponent(run.race_id)}`, "data-key": `run ${run.race_id} ${run.horse_id}` }, w.dayShort(run.race_date))),
    cell(named(run.course)), horse ? h("td", {}, h("a", { href: `/horse?id=${encodeURIComponent(run.horse_id)}` }, named(run.horse ?? run.horse_id))) : null,
    cell(run.race_class), cell(w.distance(run.distance_m)), cell(run.going),
    cell(run.position === null ? `${run.status === "RAN" || run.status === "FINISHED" ? "place unknown" : run.status} of ${run.starters}` : `${run.position} of ${run.starters}`),
    cell(run.position === 1 ? "" : w.number(run.beaten_lengths, 1), "figure"), cell(w.odds(run.sp_decimal), "figure"),
    cell(w.weight(run.weight_lbs), "figure"), people ? cell(named(run.jockey)) : null, cell(w.whole(run.official_rating), "figure"),
    rated ? cell(w.signed(run.elo), "figure") : null, rated ? cell(w.number(run.figure, 0), "figure") : null);
  return listed(title, columns, runs.map(row));
}

/** A titled table that scrolls sideways where it is too wide. */
export function listed(title, columns, rows) {
  return h("section", { class: "listed" }, h("h2", {}, title), h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": title },
    h("table", { class: "plain" }, h("thead", {}, h("tr", {}, columns.map((column) => h("th", { scope: "col" }, column)))), h("tbody", {}, rows))));
}
