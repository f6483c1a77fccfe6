// The filters of the panels: a choice hides rows, curves and maps of other settings.
(() => {
  "use strict";
  function filtered(panel) {
    const selects = [...panel.querySelectorAll(".filter select")];
    if (!selects.length) return;
    const said = panel.querySelector(".filter output");
    const rows = [...panel.querySelectorAll("tbody tr")];
    function apply() {
      const chosen = selects.filter((select) => select.selectedIndex > 0).map((select) => [select.name, select.value]);
      const fits = (settings) => chosen.every(([name, value]) => !(name in settings) || settings[name] === value);
      for (const element of panel.querySelectorAll("[data-settings]")) {
        element.hidden = !fits(JSON.parse(element.dataset.settings));
      }
      for (const plot of panel.querySelectorAll(".plot")) {
        const source = plot.nextElementSibling;
        const figure = plot.data ? plot : JSON.parse(source.textContent);
        if (figure.data.some((trace) => trace.meta)) {
          const visible = figure.data.map((trace) => !trace.meta || fits(trace.meta));
          if (plot.data) Plotly.restyle(plot, { visible });
          else {
            figure.data.forEach((trace, i) => { trace.visible = visible[i]; });
            source.textContent = JSON.stringify(figure);
          }
        } else if (plot.data && plot.offsetParent) Plotly.Plots.resize(plot);
      }
      said.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} groups`;
    }
    selects.forEach((select) => select.addEventListener("change", apply));
    apply();
  }
  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".panel").forEach(filtered));
})();
