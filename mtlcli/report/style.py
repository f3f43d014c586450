"""The style of the page, and the script that draws its plots."""

STYLE = """
:root { --back: #ffffff; --text: #1d2733; --soft: #5b6875; --line: #d9dfe5; --good: #1a7f4b;
  --bad: #b3372f; --card: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14181d; --text: #e4e8ec; --soft: #9aa7b3; --line: #313a44; --good: #5bc48b;
    --bad: #f08a80; --card: #1b2127; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 1.2rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .4rem 0 .8rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .8rem; padding-top: .8rem;
  border-top: 1px solid var(--line); overflow-wrap: anywhere; }
h3 { font-size: .95rem; margin: 1rem 0 .4rem; overflow-wrap: anywhere; }
.answer { font-size: 1.1rem; font-weight: 600; }
.how, figcaption, section > p { color: var(--soft); font-size: .85rem; }
header li { margin: .25rem 0; }
code { font-size: .85em; overflow-wrap: anywhere; }
.grid { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
figure { margin: 0; padding: .7rem .8rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; min-width: 0; }
figure h3 { margin-top: 0; }
figcaption p { margin: .3rem 0 0; }
details { color: var(--soft); font-size: .85rem; }
details ul { margin: .3rem 0; padding-left: 1.2rem; }
.scroll + .grid { margin-top: 1rem; }
.chart { width: 100%; min-height: 60px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line);
  vertical-align: top; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; }
th.number, td.number { text-align: right; white-space: nowrap; }
.task { border-bottom: 1px solid var(--line); color: var(--text); font-size: 1rem; }
.task > summary { font-size: 1.05rem; font-weight: 600; color: var(--text); padding: .7rem 0;
  cursor: pointer; }
.task[open] { padding-bottom: 1.2rem; }
tr.helps td:last-child { color: var(--good); font-weight: 600; }
tr.hurts td:last-child { color: var(--bad); font-weight: 600; }
.vega-embed .vega-actions { display: none; }
#vg-tooltip-element { max-width: 90vw; overflow-wrap: anywhere; }
@media (max-width: 640px) {
  main { padding: .8rem; }
  thead { display: none; }
  table, tbody, tr, td { display: block; }
  tr { border: 1px solid var(--line); border-radius: 8px; margin: 0 0 .6rem; padding: .3rem 0; }
  td, td.number { border: 0; display: flex; justify-content: space-between; gap: 1rem;
    text-align: right; white-space: normal; padding: .15rem .7rem; overflow-wrap: anywhere; }
  td:first-child { font-weight: 600; }
  td:empty { display: none; }
  td::before { content: attr(data-head); color: var(--soft); font-weight: 400; text-align: left;
    flex: none; max-width: 45%; }
}
"""
SCRIPT = """
const specs = JSON.parse(document.getElementById("specs").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const views = new Map();
// A plot is as wide as its place, so those in closed parts of the page wait until they open.
async function draw(all) {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const axis = { labelColor: color("--soft"), titleColor: color("--soft"),
    domainColor: color("--line"), tickColor: color("--line"), gridColor: color("--line"),
    titleFontWeight: "normal" };
  const config = { background: "transparent", view: { stroke: "transparent" }, axis,
    legend: { labelColor: color("--text"), titleColor: color("--soft"), titleFontWeight: "normal" },
    rule: { color: color("--soft") }, range: { category: ["#3b7dd8", "#e07b39", "#2f9e6e",
      "#b65fcf", "#c9a227", "#d1495b", "#4aa5b5", "#8d6e63", "#7a7f87", "#95b84b"] } };
  for (let i = 0; i < specs.length; i++) {
    const place = document.getElementById("chart" + i);
    if (place.closest("details:not([open])") || (views.has(i) && !all)) continue;
    if (views.has(i)) views.get(i).finalize();
    views.set(i, await vegaEmbed(place, specs[i], { config, actions: false, renderer: "svg",
      tooltip: { theme: dark.matches ? "dark" : "light" } }));
  }
  document.body.dataset.drawn = String(views.size);
}
dark.addEventListener("change", () => draw(true));
document.querySelectorAll("details.task").forEach((part) =>
  part.addEventListener("toggle", () => draw(false)));
draw(false);
"""
