// Draw each .chart from the JSON behind it, and fit it to its place whenever that changes.
document.addEventListener('DOMContentLoaded', () => {
    const config = {displaylogo: false, modeBarButtonsToRemove: ['select2d', 'lasso2d', 'autoScale2d']};
    const fit = new ResizeObserver((changes) => {
        for (const {target, contentRect} of changes) if (contentRect.width) Plotly.Plots.resize(target);
    });
    for (const chart of document.querySelectorAll('.chart')) {
        const {data, layout} = JSON.parse(chart.nextElementSibling.textContent);
        Plotly.newPlot(chart, data, layout, config).then(() => fit.observe(chart));
    }
});
