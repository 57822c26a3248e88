// Before anything is painted, so that nothing flashes. No choice: as the system has it.
const chosen = localStorage.getItem("modelyard.theme");
if (chosen) document.documentElement.dataset.theme = chosen;
