(function () {
  "use strict";
  var box = document.getElementById("compare"), slide = document.getElementById("slide");

  // --- before and after: drag the picture or the slider ---
  var start = null, dragged = false;
  function show(share) { box.style.setProperty("--at", share + "%"); slide.value = share; }
  function shareOf(event) {
    var frame = box.getBoundingClientRect();
    return Math.min(100, Math.max(0, 100 * (event.clientX - frame.left) / frame.width));
  }
  slide.addEventListener("input", function () { show(slide.value); });
  box.addEventListener("pointerdown", function (event) { start = event.clientX; dragged = false; });
  window.addEventListener("pointermove", function (event) {
    if (start === null || (!dragged && Math.abs(event.clientX - start) < 5)) { return; }
    dragged = true;
    show(shareOf(event));
  });
  window.addEventListener("pointerup", function () { start = null; });
  window.addEventListener("pointercancel", function () { start = null; });
  box.addEventListener("dragstart", function (event) { event.preventDefault(); });

  // --- which bands ---
  var single = JSON.parse(document.getElementById("everyband").textContent), band = document.getElementById("band");
  function view(chosen) {
    Array.prototype.forEach.call(box.querySelectorAll("img"), function (image) {
      image.hidden = image.getAttribute("data-view") !== chosen;
    });
  }
  Array.prototype.forEach.call(document.querySelectorAll("input[name=view]"), function (choice) {
    choice.addEventListener("change", function () { view(choice.value); });
  });
  band.addEventListener("input", function () {
    Array.prototype.forEach.call(box.querySelectorAll("img[data-view=band]"), function (image) {
      image.src = (image.className ? single.after : single.before)[band.value];
    });
    document.getElementById("bandname").textContent = single.names[band.value];
    band.setAttribute("aria-valuetext", single.names[band.value]);
    document.getElementById("alone").checked = true;
    view("band");
  });

  // --- spectra of picked pixels ---
  var held = document.getElementById("pixels");
  if (!held) { return; }
  var data = JSON.parse(held.textContent), bands = data.x.length;
  if (!data.rows.length) { return; }
  function unpack(text) {
    if (!text) { return null; }
    var raw = atob(text), values = new Float64Array(raw.length / 2), scale = (data.high - data.low) / 65535;
    for (var i = 0; i < values.length; i++) {
      values[i] = data.low + scale * (raw.charCodeAt(2 * i) + 256 * raw.charCodeAt(2 * i + 1));
    }
    return values;
  }
  var before = unpack(data.before), after = unpack(data.after), sigma = unpack(data.sigma);
  var mark = document.getElementById("pick"), said = document.getElementById("picked");
  var chart = document.getElementById("spectrum"), picked = 0;
  var W = 640, H = 280, L = 56, R = 12, T = 14, B = 40;

  function part(name, attributes, text) {
    var made = document.createElementNS(chart.namespaceURI, name);
    Object.keys(attributes).forEach(function (key) { made.setAttribute(key, attributes[key]); });
    if (text !== undefined) { made.textContent = text; }
    chart.appendChild(made);
  }
  function ticks(low, high) {
    var raw = (high - low) / 5, unit = Math.pow(10, Math.floor(Math.log10(raw))), out = [];
    var step = unit * [1, 2, 5, 10].filter(function (k) { return k * unit >= raw; })[0];
    for (var t = Math.ceil(low / step); t * step <= high; t++) { out.push(+(t * step).toPrecision(6)); }
    return out;
  }
  function draw() {
    var from = picked * bands, low = Infinity, high = -Infinity, i, spread;
    for (i = 0; i < bands; i++) {
      spread = sigma ? 2 * sigma[from + i] : 0;
      low = Math.min(low, before[from + i], after[from + i] - spread);
      high = Math.max(high, before[from + i], after[from + i] + spread);
    }
    if (!(high > low)) { high = low + 1; }
    var first = data.x[data.order[0]], last = data.x[data.order[bands - 1]];
    function x(v) { return L + (W - L - R) * (v - first) / (last - first || 1); }
    function y(v) { return H - B - (H - T - B) * (v - low) / (high - low); }
    function line(values, add) {
      var path = "", previous = null;
      data.order.forEach(function (band) {
        var at = data.x[band], gap = previous !== null && at - previous > data.gap;
        path += (path && !gap ? "L" : "M") + x(at).toFixed(1) + " " + y(values[from + band] + (add ? add(band) : 0)).toFixed(1);
        previous = at;
      });
      return path;
    }
    chart.textContent = "";
    ticks(low, high).forEach(function (v) {
      part("line", { x1: L, x2: W - R, y1: y(v), y2: y(v), "class": "grid" });
      part("text", { x: L - 6, y: y(v) + 4, "text-anchor": "end" }, String(v));
    });
    ticks(first, last).forEach(function (v) { part("text", { x: x(v), y: H - B + 18, "text-anchor": "middle" }, String(v)); });
    part("text", { x: (L + W - R) / 2, y: H - 4, "text-anchor": "middle" }, data.axis);
    if (sigma) {
      [-2, 2].forEach(function (k) {
        part("path", { d: line(after, function (band) { return k * sigma[from + band]; }), "class": "sigma" });
      });
    }
    part("path", { d: line(before), "class": "before" });
    part("path", { d: line(after), "class": "after" });
    var row = data.rows[picked], column = data.columns[picked];
    mark.style.left = 100 * (column + 0.5) / data.width + "%";
    mark.style.top = 100 * (row + 0.5) / data.height + "%";
    mark.hidden = false;
    var text = "Row " + row + ", column " + column + ": product solid, interpolation dashed" + (sigma ? ", two standard deviations dotted" : "");
    said.textContent = text + ".";
    chart.setAttribute("aria-label", "Spectrum of the picked pixel. " + text + ", values from " + low.toPrecision(3) + " to " + high.toPrecision(3) + ".");
  }
  function nearest(cost) {
    var best = -1, least = Infinity;
    for (var i = 0; i < data.rows.length; i++) {
      var c = cost(data.columns[i], data.rows[i], i);
      if (c < least) { least = c; best = i; }
    }
    if (best >= 0) { picked = best; draw(); }
  }
  box.addEventListener("click", function (event) {
    if (dragged) { return; }
    var frame = box.getBoundingClientRect();
    var x = (event.clientX - frame.left) / frame.width * data.width, y = (event.clientY - frame.top) / frame.height * data.height;
    nearest(function (column, row) { return (column - x) * (column - x) + (row - y) * (row - y); });
  });
  var keys = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  box.addEventListener("keydown", function (event) {
    var way = keys[event.key];
    if (!way) { return; }
    event.preventDefault();
    var here = [data.columns[picked], data.rows[picked]];
    nearest(function (column, row, i) {
      var dx = column - here[0], dy = row - here[1], along = dx * way[0] + dy * way[1];
      return i !== picked && along > 0 ? along + 3 * Math.abs(dx * way[1] - dy * way[0]) : Infinity;
    });
  });
  nearest(function (column, row) { return Math.abs(column - data.width / 2) + Math.abs(row - data.height / 2); });
})();
