"""The report's page: a calm sheet that reads on wide and narrow screens alike."""

from string import Template

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { --ink: #2b2825; --soft: #77716a; --line: #e6e1d9; --paper: #faf8f5; --sheet: #fff; --ember: #c2542d }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px }
header { margin-bottom: 28px }
.mark { color: var(--ember); font-size: 12px; font-weight: 600; letter-spacing: .14em;
  text-transform: uppercase }
h1 { margin: 4px 0 10px; font-size: 26px; font-weight: 600; line-height: 1.25; overflow-wrap: anywhere }
h2 { margin: 0 0 14px; font-size: 15px; font-weight: 600; overflow-wrap: anywhere }
section { background: var(--sheet); border: 1px solid var(--line); border-radius: 10px;
  padding: 20px 22px; margin-bottom: 18px }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; color: var(--soft); font-size: 13px }
.chip { display: inline-flex; align-items: center; gap: 8px; color: var(--ink); overflow-wrap: anywhere }
.chip::before { content: ""; flex: none; width: 10px; height: 10px; border-radius: 50%;
  background: var(--color) }
td .chip, th .chip { white-space: nowrap }
.key::before { content: ""; display: inline-block; vertical-align: middle; margin-right: 7px;
  background: var(--soft) }
.key.line::before { width: 18px; height: 2px }
.key.dot::before { width: 7px; height: 7px; border-radius: 50% }
figure { margin: 0; min-width: 0 }
figure svg { display: block; width: 100%; height: auto }
.narrow { display: none }
.scores { max-width: 660px; margin-bottom: 14px }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr));
  gap: 18px 26px; margin-top: 18px }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums }
th { color: var(--soft); font-weight: 500; text-align: left; white-space: nowrap; vertical-align: bottom }
th, td { padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top }
th:last-child, td:last-child { padding-right: 0 }
tbody tr:last-child td { border-bottom: 0 }
.numeric th:not(:first-child), .numeric td:not(:first-child) { text-align: right; white-space: nowrap }
code, pre { font: 12.5px/1.55 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace }
pre { margin: 0 0 10px; padding: 12px 14px; background: var(--paper); border-radius: 8px;
  white-space: pre-wrap; overflow-wrap: anywhere }
pre:last-child { margin-bottom: 0 }
.finding { margin: 0 0 16px; padding: 2px 0 2px 14px; border-left: 3px solid var(--ember); font-size: 16px;
  white-space: pre-line }
summary { cursor: pointer; color: var(--soft) }
@media (max-width: 640px) {
  main { padding: 24px 12px 40px } section { padding: 16px 14px } h1 { font-size: 21px }
  .wide { display: none } .narrow { display: block }
}
</style>
</head>
<body>
<main>
<header>
<div class="mark">Lumbre</div>
<h1>$title</h1>
<div class="legend">$legend<span class="key line">training</span><span class="key dot">evaluation</span></div>
</header>
$body
</main>
</body>
</html>
""")
