/*
 * The viewer. Two OpenSeadragon viewers lie over each other: a slide that is
 * switched to is opened in the lower one and shown when everything that it
 * needs to fill the window has been drawn, so that no grey is ever seen.
 */
(() => {
  'use strict';

  const COLOURS = { decoded: '#2a9d4a', memory: '#2a9d4a', disk: '#e0a100', source: '#d0342c' };
  const LOOK_MS = 100; // between two views that the server is told of
  const element = id => document.getElementById(id);
  const state = { slides: [], at: 0, shown: null, next: null, marks: false, from: new Map(), turn: 0 };
  window.slides = state; // for looking into it from the console

  const problem = text => { element('problem').textContent = text || ''; };

  // --- slides as OpenSeadragon sees them ---------------------------------------------------------

  // Levels first..last of a slide, as a source of their own: 0 is the coarsest.
  function tileSource(slide, last) {
    const levels = slide.levels.slice(0, last + 1);
    const finest = levels[levels.length - 1];
    const [width, height] = slide.dimensions;
    const source = new OpenSeadragon.TileSource({
      width: Math.ceil(width / finest.downsample),
      height: Math.ceil(height / finest.downsample),
      tileSize: slide.tile_size,
      tileOverlap: slide.overlap,
      minLevel: 0,
      maxLevel: levels.length - 1,
    });
    source.getLevelScale = level => finest.downsample / levels[level].downsample;
    source.getNumTiles = level => new OpenSeadragon.Point(levels[level].cols, levels[level].rows);
    source.getTileUrl = (level, x, y) =>
      `slides/${encodeURIComponent(slide.id)}/tiles/${levels[level].level}/${x}_${y}.jpg`;
    return source;
  }

  function makeViewer() {
    const box = document.createElement('div');
    box.className = 'viewer';
    element('stage').append(box);
    const viewer = OpenSeadragon({
      element: box,
      drawer: 'canvas',
      showNavigationControl: false,
      animationTime: 0.3,
      blendTime: 0,
      immediateRender: false,
      minZoomImageRatio: 0.8,
      maxZoomPixelRatio: 4,
      visibilityRatio: 0.6,
      maxImageCacheCount: 400,
      imageLoaderLimit: 6,
      keyboardNavEnabled: false,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    });
    viewer.addHandler('canvas-key', event => { event.preventDefaultAction = true; });
    viewer.addHandler('update-viewport', () => {
      if (viewer !== state.shown)
        return;
      look();
      if (state.marks)
        mark();
    });
    viewer.addHandler('tile-load-failed', event => problem(event.message));
    return viewer;
  }

  const viewers = [makeViewer(), makeViewer()];

  // Everything of one image is there, for the view as it is.
  const whenFull = item => new Promise(done => {
    if (item.getFullyLoaded())
      return done();
    const handler = event => {
      if (!event.fullyLoaded)
        return;
      item.removeHandler('fully-loaded-change', handler);
      done();
    };
    item.addHandler('fully-loaded-change', handler);
  });

  const addImage = (viewer, tileSource, index) => new Promise((success, error) =>
    viewer.addTiledImage({
      tileSource, index, x: 0, y: 0, width: 1,
      success: event => success(event.item), error: event => error(new Error(event.message)),
    }));

  async function open(at) {
    const turn = ++state.turn;
    const listed = state.slides[at];
    problem('');
    const answer = await fetch(`slides/${encodeURIComponent(listed.id)}/show`);
    if (!answer.ok)
      throw new Error(await answer.text()); // the former slide stays
    const slide = await answer.json();
    if (turn !== state.turn)
      return;
    const viewer = viewers.find(one => one !== state.shown);
    viewer.world.removeAll();
    // Underneath lies the coarsest level, always: what moves into view shows that at least.
    const under = await addImage(viewer, tileSource(slide, 0), 0);
    const main = await addImage(viewer, tileSource(slide, slide.levels.length - 1), 1);
    viewer.viewport.goHome(true);
    await Promise.all([whenFull(under), whenFull(main)]);
    await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
    if (turn !== state.turn)
      return;
    for (const one of viewers)
      one.element.classList.toggle('shown', one === viewer);
    const former = state.shown;
    state.shown = viewer;
    state.slide = slide;
    state.main = main;
    state.at = at;
    state.looked = null;
    if (former)
      former.world.removeAll();
    element('name').textContent = slide.name;
    element('place').textContent = `${at + 1} of ${state.slides.length} · ` +
      `${slide.dimensions[0]} × ${slide.dimensions[1]}`;
    location.replace(`#${encodeURIComponent(slide.id)}`);
    look();
  }

  function show(at) {
    if (at < 0 || at >= state.slides.length)
      return;
    state.wanted = at;
    open(at).catch(error => {
      state.wanted = state.at;
      problem(error.message);
    });
  }

  // --- telling the server where the view is and how fast it moves ---------------------------------

  function look() {
    const now = performance.now();
    const { shown, slide, main } = state;
    if (!shown || (state.looked && now - state.looked.when < LOOK_MS))
      return;
    const box = main.viewportToImageRectangle(shown.viewport.getBounds(true));
    const scale = shown.viewport.getContainerSize().x / box.width;
    const before = state.looked;
    const seconds = before ? (now - before.when) / 1000 : 0;
    const still = !before || seconds > 1;
    const view = [box.x, box.y, box.width, box.height, scale,
      still ? 0 : (box.x - before.x) / seconds, still ? 0 : (box.y - before.y) / seconds];
    state.looked = { when: now, x: box.x, y: box.y };
    const text = view.map(number => number.toFixed(6)).join(',');
    if (text === state.told)
      return;
    state.told = text;
    fetch(`look?generation=${slide.generation}&viewport=${text}`).catch(() => {});
  }

  // --- the panel, and the colours on the tiles -------------------------------------------------------

  const megabytes = bytes => `${(bytes / 1048576).toFixed(bytes < 10485760 ? 1 : 0)} MB`;

  function report(stats) {
    const recent = { decoded: 0, memory: 0, disk: 0, source: 0 };
    for (const [id, level, col, row, from] of stats.recent) {
      recent[from]++;
      state.from.set(`${id} ${level} ${col} ${row}`, from);
    }
    element('recent-memory').textContent = recent.memory + recent.decoded;
    element('recent-disk').textContent = recent.disk;
    element('recent-source').textContent = recent.source;
    element('all-memory').textContent = stats.served.memory + stats.served.decoded;
    element('all-disk').textContent = stats.served.disk;
    element('all-source').textContent = stats.served.source;
    element('hit-rate').textContent = `${(100 * stats.hit_rate).toFixed(1)} %`;
    element('compressed').textContent = `${stats.compressed.entries} tiles, ` +
      `${megabytes(stats.compressed.bytes)} of ${megabytes(stats.compressed.limit)}`;
    const preload = stats.preload;
    const done = preload.tiles_done + preload.tiles_skipped + preload.tiles_failed;
    element('preload').textContent = preload.tiles ?
      `${done} of ${preload.tiles} tiles, ${preload.slides_done} of ${preload.slides} slides` +
      `${preload.tiles_failed ? `, ${preload.tiles_failed} failed` : ''}` : 'nothing';
    element('progress').value = preload.tiles ? done / preload.tiles : 0;
    state.preload = preload;
    mark();
  }

  function mark() {
    const canvas = element('marks');
    const { shown, slide, main } = state;
    canvas.width = innerWidth;
    canvas.height = innerHeight;
    if (!state.marks || !shown)
      return;
    const pen = canvas.getContext('2d');
    pen.lineWidth = 3;
    for (const { tile } of main.getTilesToDraw().flat()) {
      const from = state.from.get(`${slide.id} ${slide.levels[tile.level].level} ${tile.x} ${tile.y}`);
      const box = shown.viewport.viewportToViewerElementRectangle(
        main.source.getTileBounds(tile.level, tile.x, tile.y));
      if (!from)
        continue;
      pen.strokeStyle = pen.fillStyle = COLOURS[from];
      pen.globalAlpha = 0.25;
      pen.fillRect(box.x, box.y, box.width, box.height);
      pen.globalAlpha = 1;
      pen.strokeRect(box.x + 2, box.y + 2, box.width - 4, box.height - 4);
    }
  }

  document.addEventListener('keydown', event => {
    if (event.ctrlKey || event.altKey || event.metaKey)
      return;
    if (event.key === 'ArrowRight')
      show((state.wanted ?? state.at) + 1);
    else if (event.key === 'ArrowLeft')
      show((state.wanted ?? state.at) - 1);
    else if (event.key === 't')
      state.marks = !state.marks;
    else if (event.key === 'p')
      element('panel').classList.toggle('hidden');
    else
      return;
    event.preventDefault();
    mark();
  }, true);

  async function start() {
    const list = await (await fetch('slides')).json();
    state.slides = list.slides;
    if (!list.slides.length)
      return problem('There are no slides in this folder.');
    const asked = decodeURIComponent(location.hash.slice(1)) || list.current;
    show(Math.max(0, list.slides.findIndex(slide => slide.id === asked)));
    new EventSource('events').onmessage = event => report(JSON.parse(event.data));
  }

  start().catch(error => problem(error.message));
})();
