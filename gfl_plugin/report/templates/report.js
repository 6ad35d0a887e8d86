(() => {
  'use strict';
  const read = id => JSON.parse(document.getElementById(id).textContent);
  const content = read('report-data');
  const SIDES = ['left', 'top', 'right', 'bottom'];

  // ---- pictures ----

  function element(name, text, parent) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  }

  function describe(panel, found) {
    panel.replaceChildren();
    element('h4', `${found.name} ${found.score.toFixed(2)}, ${found.kind.replace('_', ' ')}`, panel);
    const list = element('dl', undefined, panel);
    const add = (term, value) => {
      const entry = element('div', undefined, list);
      element('dt', term, entry);
      element('dd', value, entry);
    };
    const [left, top, right, bottom] = found.box;
    add('size', `${Math.round(right - left)} × ${Math.round(bottom - top)} px`);
    if (found.std) SIDES.forEach((side, i) => add(side, `± ${found.std[i].toFixed(1)} px`));
  }

  function rest(panel, image) {
    const boxes = image.found.length;
    const text = boxes ? 'Point at a box for its score, its kind and its sides.' : 'There is no prediction on this image.';
    panel.replaceChildren();
    element('div', text, panel).className = 'muted';
  }

  function serve(card) {
    const image = content.images[card.dataset.image];
    const picture = card.querySelector('.picture'), panel = card.querySelector('.panel');
    let pinned = null, shown = null;

    function show(box) {
      if (box === shown) return;
      card.querySelectorAll('.active').forEach(part => part.classList.remove('active'));
      picture.classList.toggle('focused', box !== null);
      shown = box;
      if (box === null) return rest(panel, image);
      box.classList.add('active');
      card.querySelectorAll(`[data-of="${box.dataset.found}"]`).forEach(part => part.classList.add('active'));
      describe(panel, image.found[box.dataset.found]);
    }

    function pin(box) {
      if (pinned) pinned.setAttribute('aria-pressed', 'false');
      pinned = box === pinned ? null : box;
      if (pinned) pinned.setAttribute('aria-pressed', 'true');
      show(pinned || box);
    }

    function leave() {
      const focused = card.querySelector('.box:focus-visible');
      show(pinned || focused);
    }

    card.querySelectorAll('.box').forEach(box => {
      box.addEventListener('pointerenter', () => show(box));
      box.addEventListener('pointerleave', leave);
      box.addEventListener('focus', () => show(box));
      box.addEventListener('blur', () => show(pinned));
      box.addEventListener('click', () => pin(box));
      box.addEventListener('keydown', event => {
        if (event.key === 'Enter' || event.key === ' ') {
          event.preventDefault();
          pin(box);
        } else if (event.key === 'Escape') {
          if (pinned) pin(pinned);
          show(null);
        }
      });
    });
    const enlarge = card.querySelector('.enlarge');
    enlarge.addEventListener('click', () => {
      const isLarge = card.classList.toggle('large');
      enlarge.setAttribute('aria-pressed', isLarge);
      card.scrollIntoView({block: 'nearest'});
    });
    rest(panel, image);
  }

  // The text of a picture keeps its size on the screen: --px is the number of the picture's units in a pixel.
  const sizes = new ResizeObserver(entries => entries.forEach(({target, contentRect}) => {
    if (contentRect.width) target.style.setProperty('--px', target.viewBox.baseVal.width / contentRect.width);
  }));
  document.querySelectorAll('.picture svg').forEach(svg => sizes.observe(svg));
  document.querySelectorAll('.card').forEach(serve);
  document.querySelectorAll('.switches input').forEach(input => {
    const apply = () => input.closest('.pictures').classList.toggle(input.dataset.hides, !input.checked);
    input.addEventListener('change', apply);
    apply(); // a browser may restore the state of a checkbox
  });

  // ---- charts ----

  const figures = read('report-charts');
  const options = {responsive: true, displaylogo: false, modeBarButtonsToRemove: ['select2d', 'lasso2d', 'autoScale2d']};
  document.querySelectorAll('.plot').forEach(place => {
    const {data, layout} = figures[place.dataset.chart];
    Plotly.newPlot(place, data, layout, options);
  });
})();
