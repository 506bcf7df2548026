#!/bin/sh
# A new module is built, tested and installed without a network. Prints TAP.
echo 1..2
cd "$(mktemp -d)" || exit 1
go mod init example.com/greeting 2> /dev/null
cat > main.go <<'GO'
package main

import "fmt"

func main() { fmt.Println("hello") }
GO
if go vet . && [ "$(go run .)" = hello ]; then echo "ok 1 - a program runs"; else echo "not ok 1 - a program runs"; fi
if go install . && [ "$(greeting)" = hello ]; then echo "ok 2 - it is installed on PATH"; else echo "not ok 2 - it is installed on PATH"; fi
