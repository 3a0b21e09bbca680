// Builds elements. Text only ever becomes text: nothing here or elsewhere parses markup.

/**
 * Return a new element.
 * @param {string} tag Its tag.
 * @param {object} options Properties and attributes; `on` has listeners, `text` its text, `class` its classes.
 * @param {...(Node|string|null)} children What it contains.
 */
export function element(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    } else if (name === "text") {
      made.textContent = value;
    } else if (name === "class") {
      made.className = value;
    } else {
      made.setAttribute(name, value === true ? "" : value);
    }
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const keyOf = (node) => node.id || node.dataset.key;

/** Replace what an element contains. What is focused in it stays so, if its like (`id` or `data-key`) is there again. */
export function fill(parent, ...children) {
  const key = parent.contains(document.activeElement) ? keyOf(document.activeElement) : null;
  parent.replaceChildren(...children.filter((child) => child !== null));
  if (key) [...parent.querySelectorAll("[id], [data-key]")].find((node) => keyOf(node) === key)?.focus();
}

export const byId = (id) => document.getElementById(id);

/** Show what has happened and tell a screen reader, at once if it is an error. */
export function say(text, isError = false) {
  byId("said").textContent = isError ? "" : text;
  byId("failed").textContent = isError ? text : "";
}

const numbers = new Intl.NumberFormat("en");

export const count = (number) => numbers.format(number);

export const persons = (number) => `${count(number)} ${number === 1 ? "person" : "persons"}`;

/** Return a name of a column or attribute as people write it. */
export const words = (name) => name.replaceAll("_", " ");

/** Return a value as text. */
export function shown(value) {
  if (value === null || value === undefined) return "can't tell";
  if (value === true) return "yes";
  if (value === false) return "no";
  return String(value);
}

export const percent = (share) => (share === null || share === undefined ? "" : `${Math.round(100 * share)}%`);
