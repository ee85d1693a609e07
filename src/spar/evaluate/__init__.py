"""How good is it: roll-outs and reference scores where there is a simulator, offline measures where there is none, intervals for all."""
