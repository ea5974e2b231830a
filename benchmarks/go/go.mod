module flowerbench

go 1.19
