// Says of what is wider than the page that it can be scrolled, and how far there is still to go.
for (const place of document.querySelectorAll(".scroll")) {
  const tell = () => {
    const hidden = place.scrollWidth - place.clientWidth;
    place.toggleAttribute("data-wide", hidden > 1);
    place.toggleAttribute("data-more", hidden - place.scrollLeft > 1);
  };
  place.addEventListener("scroll", tell, {passive: true});
  tell();
  // Later, since the words that say so change the size of the box that is watched.
  const watch = new ResizeObserver(() => requestAnimationFrame(tell));
  for (const one of [place, ...place.children]) watch.observe(one);
}
