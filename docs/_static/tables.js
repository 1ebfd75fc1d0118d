// Say of each wide table that it scrolls, and let the keyboard scroll it.
document.querySelectorAll(".table-wrapper").forEach((box) => {
  const look = () => {
    const scrolls = box.scrollWidth > box.clientWidth;
    box.classList.toggle("scrolls", scrolls);
    if (scrolls) Object.assign(box, { tabIndex: 0, role: "region", ariaLabel: "Table that scrolls sideways" });
  };
  new ResizeObserver(look).observe(box);
});
