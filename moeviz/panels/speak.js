// What screen readers are told of one panel. ipywidgets has no say over these attributes, so they are
// copied from what is to be seen. A page that runs no scripts loses nothing else.
let tries = 2400;  // a view is put into its panel some time after it is made
const waiting = setInterval(() => {
    const panel = this.closest('.moeviz-panel, .moeviz-predict, .moeviz-outcome');
    if (!panel && --tries) return;
    clearInterval(waiting);
    if (!panel) return;
    const put = (e, name, value) => {
        if (e && value && e.getAttribute(name) !== value) e.setAttribute(name, value) };
    const words = (e, css) => e.querySelector(css)?.textContent.trim();
    const speak = () => {
        // ipywidgets 8 hints at "null" where it has no hint.
        panel.querySelectorAll('[title=null]').forEach(e => e.removeAttribute('title'));
        // A screen reader hears what changes in a region that stays, and the widget's does.
        for (const region of panel.querySelectorAll('.widget-html-content > [role=status]')) {
            put(region.parentNode, 'role', 'status');
            put(region.parentNode, 'aria-live', 'polite');
            region.removeAttribute('role');
            region.removeAttribute('aria-live') }
        for (const slider of panel.querySelectorAll('.widget-slider, .widget-hslider')) {
            const handle = slider.querySelector('.noUi-handle, .ui-slider-handle');
            put(handle, 'aria-label', words(slider, '.widget-label'));
            // The value: a slider of options would tell its index.
            put(handle, 'aria-valuetext', words(slider, '.widget-readout'));
            // Notebook 7 would keep the arrow keys for its cells.
            put(handle, 'data-lm-suppress-shortcuts', 'true');
            if (handle?.matches('.ui-slider-handle')) {  // ipywidgets 7
                put(handle, 'role', 'slider');
                put(handle, 'aria-valuenow', `${parseFloat(handle.style.left) || 0}`) } }
        for (const group of panel.querySelectorAll('div.widget-toggle-buttons')) {
            put(group, 'role', 'group');
            put(group, 'aria-label', words(group, '.widget-label')) }
        for (const button of panel.querySelectorAll(
                'button.widget-toggle-button, .widget-toggle-buttons button'))
            // What shows something more is open or not; what sets something is pressed or not.
            put(button, button.matches('.moeviz-behind') ? 'aria-expanded' : 'aria-pressed',
                `${button.classList.contains('mod-active')}`) };
    const busy = '.moeviz-picture, .moeviz-table';  // they change often and have no controls
    new MutationObserver(changes => changes.every(c => c.target.closest(busy)) || speak())
        .observe(panel, {subtree: true, childList: true, attributes: true,
            attributeFilter: ['class', 'aria-valuetext']});
    speak() }, 50);
