"""From measurements to an engine profile, and from a profile back to measurements.

`rhizome calibrate` measures a live engine (`target`, `probes`, `measuring`), fits the step model
(`fitting`) and writes a profile (`writing`). The evaluation runs the simulated scheduler under
virtual time (`replay`) against what real engines did (`published`, `request_logs`, `live`).
"""
