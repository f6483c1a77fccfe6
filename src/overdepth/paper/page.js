// Draws the page's figures when they come into view, the others in idle time, in the colours of the reader's theme; keys n, p and t.
(() => {
  "use strict";
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const drawn = new Set();
  let printing = false;

  function themed(layout) {
    const dark = isDark() && !printing;
    const ink = dark ? "#e6edf3" : "#1b1f24", line = dark ? "#3d444d" : "#d8dee4";
    const paper = dark ? "#0d1117" : "#ffffff";
    const update = {
      "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "font.color": ink,
      "font.size": innerWidth >= 1700 && !printing ? 17 : 12, "modebar.bgcolor": "rgba(0,0,0,0)", "modebar.color": ink,
      "hoverlabel.bgcolor": paper, "hoverlabel.font.color": ink, "legend.bgcolor": "rgba(0,0,0,0)",
    };
    for (const key of ["xaxis", "yaxis", ...Object.keys(layout).filter((name) => /^[xy]axis\d+$/.test(name))]) {
      for (const part of ["gridcolor", "zerolinecolor", "linecolor"]) update[`${key}.${part}`] = line;
      update[`${key}.automargin`] = true;
    }
    (layout.updatemenus || []).forEach((_, i) => {
      Object.assign(update, { [`updatemenus[${i}].bgcolor`]: paper, [`updatemenus[${i}].bordercolor`]: line });
    });
    return update;
  }

  function draw(element) {
    if (drawn.has(element)) return;
    drawn.add(element);
    const figure = JSON.parse(element.nextElementSibling.textContent);
    element.replaceChildren();
    Plotly.newPlot(element, figure.data, figure.layout, { responsive: true, displaylogo: false, showSendToCloud: false });
    Plotly.relayout(element, themed(figure.layout));
  }

  function recolour() {
    for (const element of drawn) Plotly.relayout(element, themed(element.layout));
  }

  function turn() {
    root.dataset.theme = isDark() ? "light" : "dark";
    recolour();
  }

  function step(direction) {
    const stops = [...document.querySelectorAll("main section[id]")];
    const here = direction > 0
      ? stops.find((stop) => stop.getBoundingClientRect().top > 5)
      : stops.reverse().find((stop) => stop.getBoundingClientRect().top < -5);
    if (here) { here.scrollIntoView(); here.focus({ preventScroll: true }); } else if (direction < 0) scrollTo(0, 0);
  }

  document.addEventListener("DOMContentLoaded", () => {
    const figures = [...document.querySelectorAll(".plot")];
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
    }, { rootMargin: "600px" });
    figures.forEach((figure) => seen.observe(figure));
    const idle = window.requestIdleCallback || ((work) => setTimeout(work, 200));
    const drawNext = () => {
      const figure = figures.find((each) => !drawn.has(each));
      if (figure) { draw(figure); idle(drawNext); }
    };
    addEventListener("load", () => idle(drawNext));
    document.querySelector("#theme")?.addEventListener("click", turn);
    system.addEventListener("change", recolour);
    addEventListener("beforeprint", () => { printing = true; figures.forEach(draw); recolour(); });
    addEventListener("afterprint", () => { printing = false; recolour(); });
    addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
      if (event.key === "n") step(1);
      if (event.key === "p") step(-1);
      if (event.key === "t") turn();
    });
  });
})();
