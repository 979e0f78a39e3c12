package stock

import (
	"slices"
	"time"
	"unicode/utf8"

	"roundtrip/internal/fingerprint"
	"roundtrip/internal/problem"
)

// Adjust changes a level's quantity on hand, once for each ID. It changes it by Delta or
// to OnHand.
type Adjust struct {
	ID            string
	SKU, Location string
	// Exactly one of Delta and OnHand is set.
	Delta, OnHand *int64
	// ExpectedOnHand, if not nil, must equal the current quantity on hand.
	ExpectedOnHand *int64
	Reason         Reason
	Note           string
}

// Adjustment is an Adjust and its outcome, as stored.
type Adjustment struct {
	Adjust
	Fingerprint string
	// Problem is why the adjustment was rejected. It is nil if it was done.
	Problem *problem.Problem
	// Level is the level right after the decision.
	Level     Level
	CreatedAt time.Time
}

// Validate reports all invalid fields as one invalid problem.
func (a Adjust) Validate() error {
	var f problem.Fields
	f.Name("/id", a.ID)
	f.Name("/sku", a.SKU)
	f.Name("/location", a.Location)
	switch {
	case (a.Delta == nil) == (a.OnHand == nil):
		f.Add("", "must have either delta or on_hand")
	case a.Delta != nil:
		f.Between("/delta", *a.Delta, -MaxOnHand, MaxOnHand)
		if *a.Delta == 0 {
			f.Add("/delta", "must not be 0")
		}
	default:
		f.Between("/on_hand", *a.OnHand, 0, MaxOnHand)
	}
	if a.ExpectedOnHand != nil {
		f.Between("/expected_on_hand", *a.ExpectedOnHand, 0, MaxOnHand)
	}
	if !slices.Contains(AdjustmentReasons(), a.Reason) {
		f.Add("/reason", "must be one of %v", AdjustmentReasons())
	}
	if utf8.RuneCountInString(a.Note) > MaxNote {
		f.Add("/note", "must have at most %d characters", MaxNote)
	}
	return f.Err()
}

// Needs names the adjustment and the level.
func (a Adjust) Needs() Needs {
	level := []Key{{a.Location, a.SKU}}
	return Needs{Adjustments: []string{a.ID}, Levels: level, NewLevels: level}
}

func (a Adjust) fingerprint() string {
	optional := func(v *int64) any {
		if v == nil {
			return ""
		}
		return *v
	}
	return fingerprint.Of(a.SKU, a.Location, optional(a.Delta), optional(a.OnHand), optional(a.ExpectedOnHand), a.Reason, a.Note)
}

func (a Adjust) decide(b *UnitOfWork) Result {
	if stored, ok := b.adjustments[a.ID]; ok {
		if stored.Fingerprint != a.fingerprint() {
			return Result{Err: problem.New(problem.KeyReused, "Id %s was used for another adjustment.", a.ID)}
		}
		return stored.result()
	}
	level := b.level(Key{a.Location, a.SKU})
	var onHand int64
	if a.OnHand != nil {
		onHand = *a.OnHand
	} else {
		onHand = level.OnHand + *a.Delta
	}
	// Returned goods may have raised the level above MaxOnHand. It can still be lowered.
	if onHand > MaxOnHand && onHand > level.OnHand {
		var f problem.Fields
		f.Add("/delta", "would raise the quantity on hand above the limit of %d", MaxOnHand)
		return Result{Err: f.Err()}
	}
	adjustment := &Adjustment{Adjust: a, Fingerprint: a.fingerprint(), CreatedAt: b.now}
	if a.ExpectedOnHand != nil && *a.ExpectedOnHand != level.OnHand {
		adjustment.Problem = problem.New(problem.PreconditionFailed,
			"There are %d on hand, not %d.", level.OnHand, *a.ExpectedOnHand)
	} else {
		adjustment.Problem = b.setOnHand(level.Key(), onHand, a.Reason, a.ID, 0)
	}
	adjustment.Level = *b.level(level.Key())
	b.adjusted(adjustment)
	return adjustment.result()
}

func (a *Adjustment) result() Result {
	if a.Problem != nil {
		return Result{Adjustment: *a, Err: a.Problem}
	}
	return Result{Adjustment: *a, Level: a.Level}
}

// ImportRow sets the quantity on hand of one level. It also sets the level's name,
// unless Name is empty. It is idempotent: a row that equals the level changes nothing.
type ImportRow struct {
	// ImportID and Row are the source of the ledger's entry.
	ImportID string
	Row      int64

	SKU, Location string
	Name          string
	OnHand        int64
}

// Validate reports all invalid fields as one invalid problem. The pointers name the
// fields of the row.
func (r ImportRow) Validate() error {
	var f problem.Fields
	f.Name("/sku", r.SKU)
	f.Name("/location", r.Location)
	f.Between("/on_hand", r.OnHand, 0, MaxOnHand)
	if utf8.RuneCountInString(r.Name) > MaxName {
		f.Add("/name", "must have at most %d characters", MaxName)
	}
	return f.Err()
}

// Needs names the level.
func (r ImportRow) Needs() Needs {
	level := []Key{{r.Location, r.SKU}}
	return Needs{Levels: level, NewLevels: level}
}

func (r ImportRow) decide(b *UnitOfWork) Result {
	key := Key{r.Location, r.SKU}
	before := *b.level(key)
	if rejection := b.setOnHand(key, r.OnHand, ReasonImported, r.ImportID, r.Row); rejection != nil {
		return Result{Level: before, Err: rejection}
	}
	level := b.level(key)
	if r.Name != "" && level.Name != r.Name {
		level.Name = r.Name
		if level.Version == before.Version {
			b.touch(level)
		}
	}
	return Result{Level: *level, Changed: *level != before}
}
