"""Many devices, many hosts: the mesh, the processes, and stopping when asked."""
