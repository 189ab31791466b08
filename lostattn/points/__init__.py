"""Hook points: their names, where they are read and written, and the updates of the stream."""
