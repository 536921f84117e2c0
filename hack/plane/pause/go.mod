module aistack/plane/pause

go 1.26.0
