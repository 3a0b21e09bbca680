"use strict";
// The gallery: filters, pages and a person's answers. All text is set as text, so none of it becomes markup.
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 60;
const form = document.getElementById("filters");
const wall = document.getElementById("wall");
const more = document.getElementById("more");
const said = document.getElementById("said");
const dialog = document.getElementById("person");
let found = [];
let shown = 0;

function element(name, text, properties) {
  const made = document.createElement(name);
  if (text !== null && text !== undefined) made.textContent = text;
  return Object.assign(made, properties || {});
}

function percent(share) {
  return share === null || share === undefined ? "" : Math.round(100 * share) + "%";
}

function valueOf(text) {
  return text === null ? "no value" : text;
}

function addFilter(name, title, options) {
  const id = "filter-" + name;
  const select = element("select", null, { id: id, name: name });
  select.append(element("option", "all", { value: "" }));
  for (const [value, text] of options) select.append(element("option", text, { value: value }));
  const field = element("div");
  field.append(element("label", title, { htmlFor: id }), select);
  form.insertBefore(field, form.lastElementChild);
}

// Values with their numbers: in the given order, then others by name, then those who have none.
function options(values, order, none) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
  const places = new Map(order.map((value, n) => [value, n]));
  const place = (value) => (value === none ? order.length + 1 : places.get(value) ?? order.length);
  return [...counts].sort(([a], [b]) => place(a) - place(b) || a.localeCompare(b))
    .map(([value, n]) => ["=" + value, (value === "" ? "(no camera)" : value) + " (" + n + ")"]);
}

function alt(person) {
  const known = data.attributes.map((name, i) => name + " " + valueOf(person.values[i]));
  return "Person" + (person.camera ? " at " + person.camera : "") + ": " + known.join(", ");
}

function picture(person, text) {
  if (!person.picture) return element("span", "no picture", { className: "none" });
  return element("img", null, { src: person.picture, alt: text, loading: "lazy" });
}

function card(person) {
  const item = element("li");
  const button = element("button", null, { type: "button" });
  button.append(picture(person, alt(person)));
  const first = person.values.slice(0, 2).map(valueOf).join(", ");
  button.append(element("span", person.traits.includes("no-person") ? "not a person" : first));
  if (person.camera) button.append(element("span", person.camera, { className: "soft" }));
  button.addEventListener("click", () => open(person));
  item.append(button);
  return item;
}

function open(person) {
  const body = dialog.querySelector("div.body");
  body.replaceChildren();
  body.append(picture(person, alt(person)));
  body.append(element("p", person.id, { className: "id" }));
  body.append(element("p", [person.camera, person.time].filter(Boolean).join(", "), { className: "soft" }));
  // A narrow page shows each row as a block. The roles are given because blocks have none of their own.
  const table = element("table", null, { className: "stacked", role: "table" });
  const head = element("tr", null, { role: "row" });
  const titles = ["attribute", "final value", "source", ...data.annotators];
  for (const title of titles) head.append(element("th", title, { scope: "col", role: "columnheader" }));
  const top = element("thead", null, { role: "rowgroup" });
  top.append(head);
  const rows = element("tbody", null, { role: "rowgroup" });
  data.attributes.forEach((name, i) => {
    const row = element("tr", null, { role: "row" });
    const cells = [valueOf(person.values[i]), person.sources[i] || ""];
    const given = new Set();
    for (const annotator of data.annotators) {
      const answer = person.answers[annotator];
      const isAnswered = ["ok", "inherited"].includes(answer.status);
      if (isAnswered) given.add(answer.values[i]);
      cells.push(isAnswered ? (answer.values[i] + " " + percent(answer.confidences[i])).trim() : answer.status || "not asked");
    }
    row.append(element("th", name, { scope: "row", role: "rowheader" }));
    cells.forEach((text, n) => {
      const cell = element("td", text, { role: "cell" });
      cell.dataset.title = titles[n + 1];
      row.append(cell);
    });
    if (given.size > 1) row.className = "differ";
    rows.append(row);
  });
  table.append(top, rows);
  const wide = element("div", null, { className: "wide", tabIndex: 0 });
  wide.setAttribute("role", "region");
  wide.setAttribute("aria-label", "Answers");
  wide.append(table);
  body.append(wide);
  for (const annotator of data.annotators) {
    const answer = person.answers[annotator];
    if (answer.note) body.append(element("p", annotator + ": " + answer.note));
    if (answer.violations.length) body.append(element("p", annotator + " breaks: " + answer.violations.join("; "), { className: "bad" }));
  }
  dialog.showModal();
}

function step() {
  const next = found.slice(shown, shown + PAGE);
  wall.append(...next.map(card));
  shown += next.length;
  more.hidden = shown >= found.length;
  said.textContent = shown + " of " + found.length + " persons shown";
}

function filter() {
  const wanted = new FormData(form);
  found = data.people.filter((person) => {
    for (const [name, value] of wanted) {
      if (value === "") continue;
      if (name === "trait" ? !person.traits.includes(value)
        : name === "camera" ? "=" + person.camera !== value
        : name === "source" ? !person.sources.includes(value)
        : "=" + valueOf(person.values[Number(name)]) !== value) return false;
    }
    return true;
  });
  shown = 0;
  wall.replaceChildren();
  step();
}

if (data.people.length) {
  const traits = [["differ", "annotators differ"], ["violation", "a rule is broken"], ["unsure", "unsure"], ["human", "corrected by a person"], ["no-person", "not a person"]];
  addFilter("trait", "show", traits.map(([value, text]) => [value, text + " (" + data.people.filter((p) => p.traits.includes(value)).length + ")"]));
  addFilter("camera", "camera", options(data.people.map((person) => person.camera), [], ""));
  const sources = new Set(data.people.flatMap((person) => person.sources.filter(Boolean)));
  addFilter("source", "source of a value", [...sources].sort().map((source) => [source, source]));
  data.attributes.forEach((name, i) => addFilter(String(i), name, options(data.people.map((person) => valueOf(person.values[i])), data.orders[i], valueOf(null))));
  form.hidden = false;
  form.addEventListener("change", filter);
  form.addEventListener("reset", () => setTimeout(filter));
  more.addEventListener("click", step);
  dialog.querySelector("button").addEventListener("click", () => dialog.close());
  filter();
}
