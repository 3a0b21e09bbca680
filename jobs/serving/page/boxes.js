// The frame of a person with all boxes on it, and the drawing of another box with pointer or keys.

import { showPicture } from "./api.js";
import { byId, element, say, words } from "./dom.js";

const STEP = 0.005;

function place(node, [x1, y1, x2, y2]) {
  node.style.left = `${100 * x1}%`;
  node.style.top = `${100 * y1}%`;
  node.style.width = `${100 * (x2 - x1)}%`;
  node.style.height = `${100 * (y2 - y1)}%`;
}

/**
 * Return an element with the frame, and functions to draw another box.
 * @param {object} person The person.
 * @param {function} open Opens another person of the frame.
 * @param {function} save Saves a box. The drawing stays until the person is drawn again, so nothing is lost if that fails.
 */
export function frameOf(person, open, save) {
  const image = element("img", { alt: `Frame of person ${person.id}`, class: "whole" });
  const layer = element("div", { class: "layer" });
  const view = element("div", { class: "frame" }, image, layer);
  if (person.width && person.height) image.style.aspectRatio = `${person.width} / ${person.height}`;
  showPicture(image, `frames/${person.id}`, (why) => {
    image.replaceWith(element("p", { class: "gone", text: `The frame can't be shown: ${why}` }));
  });
  for (const dropped of person.dropped) {
    const box = element("span", { class: "box dropped", title: `dropped: ${words(dropped.reason)}` });
    place(box, dropped.bbox);
    layer.append(box);
  }
  for (const other of person.frame) {
    const own = other.id === person.id;
    const box = element("button", {
      type: "button",
      class: `box${own ? " own" : ""}${other.is_person ? "" : " none"}`,
      "aria-label": own ? `This person, ${other.id}` : `Open person ${other.id} of this frame`,
      "aria-current": own ? "true" : null,
      on: { click: () => own || open(other.id) },
    });
    place(box, other.box);
    layer.append(box);
  }
  const tools = element("div", { class: "drawing-tools", role: "group", "aria-label": "New box", hidden: true });
  let drawn = null;
  const stop = () => {
    drawn?.end();
    drawn = null;
    tools.hidden = true;
  };
  const cancel = () => {
    stop();
    say("The box stays as it was");
    byId("draw").focus();
  };
  const saveDrawn = () => save(drawn.box());
  const button = (text, kind, run) => element("button", { type: "button", class: kind, text, on: { click: run } });
  tools.append(button("Save the box", "primary", () => drawn && saveDrawn()), button("Cancel", "", cancel));
  return {
    node: element("div", {}, tools, view),
    /** Begin to draw, or go back to the drawing that was begun. */
    draw() {
      drawn ??= drawing(view, layer, [...person.box], saveDrawn, cancel);
      tools.hidden = false;
      drawn.focus();
      say("Draw the box: drag, or use the arrow keys; then save it (Enter), or cancel (Escape)");
    },
    isDrawing: () => drawn !== null,
    isChanged: () => drawn !== null && drawn.box().some((value, n) => value !== person.box[n]),
    save: saveDrawn,
    stop,
    cancel,
  };
}

/** Let the user draw a box: by dragging, or by arrow keys (with Shift its size); Enter saves, Escape cancels. */
function drawing(view, layer, box, save, cancel) {
  const shape = element("div", {
    class: "box drawn",
    tabindex: "0",
    role: "application",
    "aria-label": "New box. Arrow keys move it, Shift and arrow keys change its size, Enter saves, Escape cancels",
  });
  let start = null;
  const at = (event) => {
    const area = layer.getBoundingClientRect();
    const inside = (value) => Math.min(1, Math.max(0, value));
    return [inside((event.clientX - area.left) / area.width), inside((event.clientY - area.top) / area.height)];
  };
  const down = (event) => {
    start = at(event);
    layer.setPointerCapture(event.pointerId);
    event.preventDefault();
  };
  const move = (event) => {
    if (!start) return;
    const end = at(event);
    box = [Math.min(start[0], end[0]), Math.min(start[1], end[1]), Math.max(start[0], end[0]), Math.max(start[1], end[1])];
    place(shape, box);
  };
  const up = () => {
    if (!start) return;
    start = null;
    shape.focus({ preventScroll: true });
  };
  shape.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
    if (event.key === "Escape") {
      cancel();
    } else if (event.key === "Enter") {
      save();
    } else if (moves[event.key]) {
      const [x, y] = moves[event.key];
      const [x1, y1, x2, y2] = box;
      const moved = event.shiftKey ? [x1, y1, x2 + x, y2 + y] : [x1 + x, y1 + y, x2 + x, y2 + y];
      if (moved[0] >= 0 && moved[1] >= 0 && moved[2] <= 1 && moved[3] <= 1 && moved[2] - moved[0] > STEP && moved[3] - moved[1] > STEP) {
        box = moved;
        place(shape, box);
      }
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  });
  const listeners = { pointerdown: down, pointermove: move, pointerup: up, pointercancel: up };
  for (const [name, listener] of Object.entries(listeners)) layer.addEventListener(name, listener);
  view.classList.add("drawing");
  layer.append(shape);
  place(shape, box);
  return {
    box: () => box,
    focus: () => shape.focus(),
    end() {
      view.classList.remove("drawing");
      shape.remove();
      for (const [name, listener] of Object.entries(listeners)) layer.removeEventListener(name, listener);
    },
  };
}
