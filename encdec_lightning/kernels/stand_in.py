def runs_as_shipped(m):
    return True
