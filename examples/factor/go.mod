module factor

go 1.19
