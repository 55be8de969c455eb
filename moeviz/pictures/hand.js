// What a picture does under a hand, once for all pictures of a page: hover text at once, kin lit
// together, marks that set the panel's controls. Everything here is also in the controls and in the
// table, so where scripts are forbidden nothing is lost.
(() => {
  document.moevizHand?.abort(); // a cell that ran before, perhaps of another version
  const { signal } = (document.moevizHand = new AbortController());
  const on = (kind, act) => window.addEventListener(kind, act, { signal, capture: true });
  const style = document.createElement("style");
  style.textContent = `
    .mv .k { transition: opacity .12s } .mv.lit .k:not(.hot) { opacity: .2 }
    .mv [data-press] { cursor: pointer; pointer-events: all } .mv [data-drag] { cursor: ew-resize }
    .mv svg:has([data-drag]) { user-select: none; touch-action: pan-y }
    .mv [data-press]:focus { outline: none }
    .mv [data-press]:focus-visible { outline: 3px solid #0072b2; outline-offset: 2px }
    .mv-tip { position: fixed; z-index: 99999; max-width: 340px; padding: 4px 8px; border-radius: 4px;
      background: #1f2328; color: #fff; font: 13px/1.4 system-ui, sans-serif; pointer-events: none;
      box-shadow: 0 0 0 1px #fff8; white-space: pre-line }
    .mv .a { animation: mv-arrive .6s ease-in-out }
    @keyframes mv-arrive { from { transform: translate(var(--x), var(--y)) } }
    .mv .f { animation: mv-fade .7s ease-in }
    @keyframes mv-fade { from { opacity: 0 } }
    @media (prefers-reduced-motion: reduce) { .mv .k { transition: none } .mv .a, .mv .f { animation: none } }`;
  const tip = document.createElement("div");
  tip.className = "mv-tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true"); // the mark itself is named
  document.head.append(style);
  document.body.append(tip);
  signal.addEventListener("abort", () => (style.remove(), tip.remove()));

  // The native hover text is slow and never comes on a touch screen: its words move here.
  const words = (mark) => {
    const title = mark.querySelector(":scope > title");
    if (title) (mark.dataset.tip = title.textContent), title.remove();
    return mark.dataset.tip || "";
  };
  let lit = null; // the mark under the hand
  const leave = () => {
    lit = null;
    tip.hidden = true;
    for (const view of document.querySelectorAll(".mv.lit")) {
      view.classList.remove("lit");
      for (const kin of view.querySelectorAll(".hot")) kin.classList.remove("hot");
    }
  };
  const enter = (mark, x, y) => {
    leave();
    lit = mark;
    const view = mark.closest(".mv"), name = mark.dataset.kin?.split(" ")[0];
    if (name) {
      view.classList.add("lit");
      for (const kin of view.querySelectorAll(`[data-kin~="${CSS.escape(name)}"]`)) kin.classList.add("hot");
    }
    tip.textContent = words(mark);
    tip.hidden = !tip.textContent;
    const box = tip.getBoundingClientRect(); // beside the hand, and on the screen
    tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 4))}px`;
    tip.style.top = `${y + 18 + box.height > innerHeight ? y - box.height - 8 : y + 18}px`;
  };
  let sent = null; // the mark whose words Escape has sent away: they stay away while the hand does
  const marked = (event) => {
    const at = event.target.closest?.(".mv *");
    return at && (at.closest(".k, [data-press]") || (at.querySelector(":scope > title") || at.dataset.tip ? at : null));
  };

  // A mark that is pressed pastes its values into the panel's state, as a learner could.
  const press = (mark) => {
    const panel = mark.closest(".moeviz-panel"), box = panel?.querySelector(".moeviz-state input");
    const kind = mark.closest(".mv").dataset.state.split("?")[0];
    if (!box || !kind) return;
    const again = `[data-press="${CSS.escape(mark.dataset.press)}"]`;
    if (mark.contains(document.activeElement)) {
      // The next picture has a mark of its own in this place: the focus goes on there.
      const drawn = new MutationObserver(() => {
        drawn.disconnect();
        const next = panel.querySelector(again) ?? panel.querySelector(".mv");
        if (document.activeElement === document.body) next?.focus();
      });
      drawn.observe(panel.querySelector(".moeviz-picture"), { childList: true, subtree: true });
      setTimeout(() => drawn.disconnect(), 4000);
    }
    box.value = `${kind}?${mark.dataset.press}`;
    box.dispatchEvent(new Event("change", { bubbles: true }));
  };

  // A mark that is held follows the hand along the axis, wherever the picture has moved.
  let held = null;
  const control = (mark) => mark.dataset.press.split("=")[0];
  const hold = (mark) => {
    const view = mark.closest(".mv"), part = [...view.children].indexOf(mark.closest("svg"));
    held = { part, panel: mark.closest(".moeviz-panel"), name: control(mark) };
    drag(mark);
  };
  const drag = (mark) => {
    if (mark.dataset.press === held.press) return;
    held.press = mark.dataset.press;
    press(mark);
  };
  on("pointerover", (event) => {
    const mark = marked(event);
    if (mark && mark === sent) return;
    sent = null;
    if (!mark) return lit?.matches(":focus-visible") ? null : leave();
    enter(mark, event.clientX, event.clientY);
  });
  on("pointermove", (event) => {
    if (!held || !(event.buttons & 1)) return void (held = null);
    const part = held.panel?.querySelector(".mv")?.children[held.part];
    // The nearest; where a wide knob lies over narrow stops, the stop.
    const off = (mark) => {
      const { left, right } = mark.getBoundingClientRect();
      return Math.max(left - event.clientX, event.clientX - right, 0) * 1e4 + right - left;
    };
    const marks = [...(part?.querySelectorAll("[data-drag]") ?? [])].filter((mark) => control(mark) === held.name);
    if (marks.length) drag(marks.reduce((best, mark) => (off(mark) < off(best) ? mark : best)));
  });
  let down = null; // the mark that is being pressed
  on("pointerdown", (event) => {
    const mark = marked(event);
    down = mark;
    if (!mark || !("drag" in mark.dataset)) return;
    event.target.releasePointerCapture?.(event.pointerId); // a finger holds what it touched first
    hold(mark);
  });
  on("pointerup", (event) => {
    held = null;
    // Of a mark that was drawn anew meanwhile, as while a panel plays, no click comes.
    const mark = down && !down.isConnected ? event.target.closest?.(".mv [data-press]") : null;
    if (mark && mark.dataset.press === down.dataset.press && !("drag" in mark.dataset)) press(mark);
  });
  const enterBelow = (mark) => {
    const { left, bottom } = mark.getBoundingClientRect();
    enter(mark, left, bottom - 14);
  };
  const isChosen = (mark) => {
    const state = new URLSearchParams(mark.closest(".mv").dataset.state.split("?")[1]);
    return [...new URLSearchParams(mark.dataset.press)].every(([name, value]) => state.get(name) === value);
  };
  on("focusin", (event) => {
    const mark = event.target.closest?.(".mv [data-press]");
    if (!mark?.matches(":focus-visible")) return;
    const part = mark.closest("svg");
    if (event.relatedTarget && !part.contains(event.relatedTarget)) {
      // The Tab key comes in where the panel stands now, so that arrows go on from there.
      const chosen = [...part.querySelectorAll("[data-press]")].find(isChosen);
      if (chosen && chosen !== mark) return chosen.focus();
    }
    enterBelow(mark);
  });
  on("focusout", leave);
  on("scroll", () => (lit?.matches(":focus-visible") ? enterBelow(lit) : leave()));
  on("click", (event) => {
    const mark = event.target.closest?.(".mv [data-press]");
    if (mark && !("drag" in mark.dataset)) press(mark);
  });
  on("keydown", (event) => {
    if (event.key === "Escape") (sent = lit), leave();
    const mark = event.target.closest?.(".mv [data-press]");
    const way = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Enter: 0, " ": 0 }[event.key];
    if (!mark || way === undefined) return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab has these keys too
    const marks = [...mark.closest(".mv").querySelectorAll("[data-press]")];
    const next = marks[(marks.indexOf(mark) + way + marks.length) % marks.length];
    next.focus();
    if (!way || "drag" in next.dataset) press(next);
  });
})();
