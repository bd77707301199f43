compiler = "g++"
mpi = False
noblas = True
nolibxc = True
libraries: list[str] = []
