"""The doors: the command line, the doctor, the lab."""
