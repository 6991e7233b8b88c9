"use strict";
// The report as a file: its contents are in it.

show(JSON.parse(document.getElementById("contents").textContent));
