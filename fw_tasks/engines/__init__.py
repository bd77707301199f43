"""DFT engines behind one protocol (:mod:`fw_tasks.engines.base`)."""
