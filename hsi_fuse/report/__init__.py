"""The report: one page that opens offline and shows the figures of `quality`, none of its own."""
