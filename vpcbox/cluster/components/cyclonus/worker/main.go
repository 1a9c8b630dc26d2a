// Command worker is what cyclonus' pods are asked with: it tries all connections of a batch at once and each of them
// once, as `agnhost connect` does (TCP: connected; UDP: answered). cyclonus' own worker starts agnhost for each, and
// tries again what failed.
package main

import (
	"encoding/json"
	"flag"
	"log"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mattfenwick/cyclonus/pkg/worker"
	v1 "k8s.io/api/core/v1"
)

// As cyclonus' own worker has it
const patience = time.Second

func main() {
	jobs := flag.String("jobs", "", "a batch, as JSON")
	flag.Parse()
	var batch worker.Batch
	if err := json.Unmarshal([]byte(*jobs), &batch); err != nil {
		log.Fatalf("--jobs: %v", err)
	}
	results := make([]*worker.Result, len(batch.Requests))
	var tries sync.WaitGroup
	for number, request := range batch.Requests {
		tries.Add(1)
		go func() {
			defer tries.Done()
			results[number] = &worker.Result{Request: request}
			if err := try(request); err != nil {
				results[number].Error = err.Error()
			}
		}()
	}
	tries.Wait()
	if err := json.NewEncoder(os.Stdout).Encode(results); err != nil {
		log.Fatal(err)
	}
}

func try(request *worker.Request) error {
	deadline := time.Now().Add(patience)
	dialer := net.Dialer{Deadline: deadline}
	connection, err := dialer.Dial(strings.ToLower(string(request.Protocol)), request.Address())
	if err != nil {
		return err
	}
	defer connection.Close()
	if request.Protocol != v1.ProtocolUDP {
		return nil
	}
	if err := connection.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := connection.Write([]byte("who")); err != nil {
		return err
	}
	_, err = connection.Read(make([]byte, 1500))
	return err
}
