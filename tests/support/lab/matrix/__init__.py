"""Every way to a worker port that was thought of, as values: tested, compared, and broken on purpose."""
