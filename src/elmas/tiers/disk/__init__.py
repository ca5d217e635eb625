"""The disk tier: segment files of one directory, the operations on them, and the threads that carry these out."""
