"use strict";
const compare = document.getElementById("compare");
if (compare) {
  const stages = [...compare.querySelectorAll(".stage")];
  const press = (buttons, chosen) =>
    buttons.forEach((b) => b.setAttribute("aria-pressed", String(b === chosen)));
  const swipe = (value) => {
    for (const stage of stages) {
      stage.style.setProperty("--x", value + "%");
      stage.querySelector("input").value = value;
    }
  };
  stages.forEach((stage) => {
    const input = stage.querySelector("input");
    input.addEventListener("input", () => swipe(input.value));
    // Follow the pointer exactly: a range's own thumb lags behind its edges.
    const follow = (event) => {
      if (event.type === "pointermove" && !event.buttons) return;
      const box = stage.getBoundingClientRect();
      swipe(Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width)));
    };
    stage.addEventListener("pointerdown", follow);
    stage.addEventListener("pointermove", follow);
  });
  const views = [...compare.querySelectorAll("button[data-view]")];
  views.forEach((button) =>
    button.addEventListener("click", () => {
      press(views, button);
      stages.forEach((stage) => (stage.hidden = stage.dataset.view !== button.dataset.view));
    })
  );
  const sides = [...compare.querySelectorAll("button[data-side]")];
  sides.forEach((button) =>
    button.addEventListener("click", () => {
      press(sides, button);
      for (const stage of stages) {
        for (const image of stage.querySelectorAll("img:not(.original)"))
          image.hidden = !image.classList.contains(button.dataset.side);
        stage.querySelector(".tag.right").textContent = button.textContent;
      }
    })
  );
}
for (const table of document.querySelectorAll("table.views")) {
  const heads = [...table.querySelectorAll("thead th")];
  heads.forEach((head, column) =>
    head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const number = (row) => {
        const text = row.cells[column].dataset.value;
        return text === "" ? (up ? Infinity : -Infinity) : Number(text);
      };
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => (up ? number(a) - number(b) : number(b) - number(a)));
      table.tBodies[0].append(...rows);
    })
  );
}
