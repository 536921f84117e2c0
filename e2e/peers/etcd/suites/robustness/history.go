package robustness

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"

	"go.etcd.io/etcd/tests/v3/robustness/model"
)

// An entry is a line of `tinykv log`.
type entry struct {
	Index, Term uint64
	Command     json.RawMessage
}

type span struct{ Key, End []byte }

type write struct {
	Key, Value []byte
	Lease      int64
}

type command struct {
	Put         *write
	Delete      *span
	Txn         *transaction
	Compact     *int64
	LeaseGrant  *struct{ ID, TTL int64 } `json:"lease_grant"`
	LeaseRevoke *int64                   `json:"lease_revoke"`
}

type transaction struct {
	Compare []struct {
		Key          []byte
		Is           string
		Mod, Version *int64
	}
	Success, Failure []step
}

type step struct {
	Put    *write
	Delete *span
	Range  *struct {
		span
		Revision, Limit int64
		KeysOnly        bool `json:"keys_only"`
	}
}

// logOf reads the log of a member that does not run.
func logOf(binary, dir string) ([]entry, error) {
	told := exec.Command(binary, "log", "--data-dir", dir)
	var complaint bytes.Buffer
	told.Stderr = &complaint
	text, err := told.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", told, err, complaint.String())
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	var entries []entry
	for {
		var next entry
		if err := decoder.Decode(&next); errors.Is(err, io.EOF) {
			return entries, nil
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", told, err)
		}
		entries = append(entries, next)
	}
}

// persisted is the history on which the members agree, as etcd's model takes it.
func persisted(binary string, dirs []string) ([]model.EtcdRequest, error) {
	var logs [][]entry
	for _, dir := range dirs {
		entries, err := logOf(binary, dir)
		if err != nil {
			return nil, err
		}
		logs = append(logs, entries)
	}
	agreed, err := merge(logs)
	if err != nil {
		return nil, err
	}
	var requests []model.EtcdRequest
	for _, entry := range agreed {
		if entry.Command[0] == '"' {
			continue // an entry of Raft's own
		}
		request, err := asRequest(entry.Command)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", entry.Index, err)
		}
		requests = append(requests, *request)
	}
	return requests, nil
}

// merge takes for every index the entry that most logs hold, and of those the one of the highest term. A log may start
// late, where a member began with the state of another one, and may then hold old entries that never came to be.
func merge(logs [][]entry) ([]entry, error) {
	type candidate struct {
		entry
		votes int
	}
	at := map[uint64][]candidate{}
	var last uint64
	for _, entries := range logs {
		for _, e := range entries {
			last = max(last, e.Index)
			found := false
			for i := range at[e.Index] {
				if c := &at[e.Index][i]; c.Term == e.Term {
					if !bytes.Equal(c.Command, e.Command) {
						return nil, fmt.Errorf("entry %d of term %d is %s in one log and %s in another", e.Index, e.Term, c.Command, e.Command)
					}
					c.votes++
					found = true
				}
			}
			if !found {
				at[e.Index] = append(at[e.Index], candidate{e, 1})
			}
		}
	}
	var agreed []entry
	for index := uint64(0); index <= last; index++ {
		candidates := at[index]
		if len(candidates) == 0 {
			if index == 0 {
				continue
			}
			return nil, fmt.Errorf("no log holds entry %d", index)
		}
		best := candidates[0]
		for _, c := range candidates[1:] {
			if c.votes > best.votes || c.votes == best.votes && c.Term > best.Term {
				best = c
			}
		}
		agreed = append(agreed, best.entry)
	}
	return agreed, nil
}

func asRequest(text json.RawMessage) (*model.EtcdRequest, error) {
	var c command
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&c); err != nil {
		return nil, fmt.Errorf("%s: %w", text, err)
	}
	once := func(operation model.EtcdOperation) *model.EtcdRequest {
		return &model.EtcdRequest{Type: model.Txn, Txn: &model.TxnRequest{OperationsOnSuccess: []model.EtcdOperation{operation}}}
	}
	switch {
	case c.Put != nil:
		return once(putOf(c.Put)), nil
	case c.Delete != nil:
		operation, err := deleteOf(c.Delete)
		return once(operation), err
	case c.Txn != nil:
		return txnOf(c.Txn)
	case c.Compact != nil:
		return &model.EtcdRequest{Type: model.Compact, Compact: &model.CompactRequest{Revision: *c.Compact}}, nil
	case c.LeaseGrant != nil:
		return &model.EtcdRequest{Type: model.LeaseGrant, LeaseGrant: &model.LeaseGrantRequest{LeaseID: c.LeaseGrant.ID}}, nil
	case c.LeaseRevoke != nil:
		return &model.EtcdRequest{Type: model.LeaseRevoke, LeaseRevoke: &model.LeaseRevokeRequest{LeaseID: *c.LeaseRevoke}}, nil
	}
	return nil, fmt.Errorf("the model knows no %s", text)
}

func putOf(put *write) model.EtcdOperation {
	options := model.PutOptions{Key: string(put.Key), Value: model.ToValueOrHash(string(put.Value)), LeaseID: put.Lease}
	return model.EtcdOperation{Type: model.PutOperation, Put: options}
}

func deleteOf(deleted *span) (model.EtcdOperation, error) {
	if len(deleted.End) > 0 {
		return model.EtcdOperation{}, errors.New("the model deletes no ranges")
	}
	return model.EtcdOperation{Type: model.DeleteOperation, Delete: model.DeleteOptions{Key: string(deleted.Key)}}, nil
}

func txnOf(txn *transaction) (*model.EtcdRequest, error) {
	request := &model.TxnRequest{Conditions: []model.EtcdCondition{}}
	for _, compare := range txn.Compare {
		condition := model.EtcdCondition{Key: string(compare.Key)}
		switch {
		case compare.Is == "=" && compare.Mod != nil:
			condition.ExpectedRevision = *compare.Mod
		case compare.Is == "=" && compare.Version != nil:
			condition.ExpectedVersion = *compare.Version
		default:
			return nil, fmt.Errorf("the model knows no comparison %+v", compare)
		}
		request.Conditions = append(request.Conditions, condition)
	}
	var err error
	if request.OperationsOnSuccess, err = operationsOf(txn.Success); err != nil {
		return nil, err
	}
	if request.OperationsOnFailure, err = operationsOf(txn.Failure); err != nil {
		return nil, err
	}
	return &model.EtcdRequest{Type: model.Txn, Txn: request}, nil
}

func operationsOf(steps []step) ([]model.EtcdOperation, error) {
	operations := []model.EtcdOperation{}
	for _, step := range steps {
		var operation model.EtcdOperation
		var err error
		switch {
		case step.Put != nil:
			operation = putOf(step.Put)
		case step.Delete != nil:
			operation, err = deleteOf(step.Delete)
		case step.Range != nil:
			operation = model.EtcdOperation{Type: model.RangeOperation, Range: model.RangeOptions{
				Start: string(step.Range.Key), End: string(step.Range.End), Limit: step.Range.Limit, KeysOnly: step.Range.KeysOnly,
			}}
		default:
			err = errors.New("the model knows no transactions in transactions")
		}
		if err != nil {
			return nil, err
		}
		operations = append(operations, operation)
	}
	return operations, nil
}
