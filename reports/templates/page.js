"use strict";
// Charts: the values next to the pointer, or chosen by the arrow keys.
for (const figure of document.querySelectorAll("figure[data-curves]")) {
  const curves = JSON.parse(figure.dataset.curves);
  const svg = figure.querySelector("svg");
  const cursor = svg.querySelector(".cursor");
  const output = figure.querySelector("output");
  const places = [...new Set(curves.flatMap((c) => c.points.map((p) => p[0])))];
  places.sort((a, b) => a - b);
  let current = -1;
  const show = (index) => {
    if (!places.length) return;
    current = Math.max(0, Math.min(places.length - 1, index));
    const place = places[current];
    cursor.setAttribute("x1", place);
    cursor.setAttribute("x2", place);
    cursor.style.visibility = "visible";
    const parts = [];
    let label = "";
    for (const curve of curves) {
      let best = null;
      for (const point of curve.points) {
        const distance = Math.abs(point[0] - place);
        if (!best || distance < Math.abs(best[0] - place)) best = point;
      }
      if (best && Math.abs(best[0] - place) < 8) {
        label = label || figure.dataset.x + " " + best[1];
        parts.push(curve.name + " " + best[2]);
      }
    }
    output.textContent = label + ": " + parts.join(", ");
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    let nearest = 0;
    places.forEach((place, index) => {
      if (Math.abs(place - x) < Math.abs(places[nearest] - x)) nearest = index;
    });
    show(nearest);
  });
  svg.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") show(current + 1);
    else if (event.key === "ArrowLeft") show(current - 1);
    else return;
    event.preventDefault();
  });
}

// Lists of examples: filters, a search, and a few items at a time.
const STEP = 40;
for (const list of document.querySelectorAll(".examples")) {
  const items = [...list.querySelectorAll("ul.items > li")];
  const facets = items.map((item) => new Set(JSON.parse(item.dataset.facets)));
  const texts = items.map((item) => item.textContent.toLowerCase());
  const selects = [...list.querySelectorAll("select")];
  const search = list.querySelector("input[type=search]");
  const count = list.querySelector("output");
  const more = list.querySelector("button.more");
  let limit = STEP;
  const update = () => {
    const wanted = selects.filter((s) => s.value).map((s) => s.name + "=" + s.value);
    const text = search.value.toLowerCase();
    let matching = 0;
    items.forEach((item, index) => {
      const fits = wanted.every((facet) => facets[index].has(facet)) &&
        texts[index].includes(text);
      matching += fits;
      item.hidden = !fits || matching > limit;
    });
    count.textContent = matching + " of " + items.length + " match.";
    more.hidden = matching <= limit;
  };
  const restart = () => { limit = STEP; update(); };
  selects.forEach((select) => select.addEventListener("change", restart));
  search.addEventListener("input", restart);
  more.addEventListener("click", () => { limit += STEP; update(); });
  list.addEventListener("show-facets", (event) => {
    for (const select of selects) select.value = event.detail[select.name] || "";
    search.value = "";
    restart();
    list.scrollIntoView();
    selects[0].focus();
  });
  list.querySelector(".filters").hidden = false;
  update();
}
for (const button of document.querySelectorAll("button[data-facets]")) {
  button.addEventListener("click", () => {
    const detail = JSON.parse(button.dataset.facets);
    document.getElementById(button.dataset.list)
      .dispatchEvent(new CustomEvent("show-facets", { detail }));
  });
}
