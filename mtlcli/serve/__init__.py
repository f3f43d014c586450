"""A model behind HTTP: requests are put into batches for one worker thread, with limits on size and
time, and a page to try the tasks. This room imports no torch by itself; the modules about HTTP need
the extra `serve`."""
