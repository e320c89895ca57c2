"""Programs that run on a lab machine, each by its path; some of them are imported too."""
