# Nothing of Aside can be used from Python.

NUM_STREAMS_AT: int

class Aside: ...
