"""Why a run is as good as it is: residual geometry, support, gradient conflict, calibration of the critics, and what the gate does."""
