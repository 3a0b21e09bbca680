// What the page shows: the queue, the filters, the page of the wall and the open person. The address holds it, so a
// view can be bookmarked, and Back goes back.

export const PAGE_SIZE = 60;

export const state = {
  about: null,
  queue: "all",
  conditions: [],
  size: 200,
  seed: 1,
  // Columns that follow from final values by which an audit's sample is filtered.
  byValues: [],
  after: 0,
  person: null,
  // Persons by id, as the server has last described them.
  persons: new Map(),
  wall: [],
  total: 0,
  selected: new Set(),
  // What this page has decided and can take back, the last one at the end: the number of the action, and a text.
  undoable: [],
};

/** Return the view in the form that the server wants. */
export function view() {
  const { queue, conditions, size, seed } = state;
  return { queue, conditions, size, seed };
}

export function toAddress() {
  const content = { queue: state.queue, after: state.after };
  if (state.conditions.length) content.conditions = state.conditions;
  if (state.queue === "audit") Object.assign(content, { size: state.size, seed: state.seed });
  if (state.person !== null) content.person = state.person;
  return `#${encodeURIComponent(JSON.stringify(content))}`;
}

export function fromAddress() {
  let content = {};
  try {
    content = JSON.parse(decodeURIComponent(location.hash.slice(1)) || "{}");
  } catch {
    // An address that was cut off shows everyone.
  }
  state.queue = typeof content.queue === "string" ? content.queue : "all";
  state.conditions = Array.isArray(content.conditions) ? content.conditions : [];
  state.size = Number.isInteger(content.size) ? content.size : 200;
  state.seed = Number.isInteger(content.seed) ? content.seed : 1;
  state.after = Number.isInteger(content.after) ? content.after : 0;
  state.person = Number.isInteger(content.person) ? content.person : null;
}

/** Return whether two views are of the same persons. */
export const viewKey = () => JSON.stringify(view());
