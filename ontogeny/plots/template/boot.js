(function () {
  "use strict";
  var figures = JSON.parse(document.getElementById("figures").textContent);
  var touch = window.matchMedia("(pointer: coarse)").matches;
  var config = {
    responsive: true,
    displaylogo: false,
    displayModeBar: touch ? false : "hover",
    showTips: false,
    showSendToCloud: false,
    plotlyServerURL: ""
  };
  var printed = 660; // px: the text width of an A4 page
  var drawn = [];
  Object.keys(figures).forEach(function (id) {
    var place = document.getElementById(id);
    var layout = figures[id].layout;
    if (touch) {
      layout.dragmode = false; // a finger on a figure scrolls the page
    }
    Plotly.newPlot(place, figures[id].data, layout, config);
    drawn.push(place);
  });
  function resize(width) {
    drawn.forEach(function (place) {
      Plotly.relayout(place, width ? { width: width, autosize: false } : { width: null, autosize: true });
    });
  }
  window.addEventListener("beforeprint", function () { resize(printed); });
  window.addEventListener("afterprint", function () { resize(0); });
})();
