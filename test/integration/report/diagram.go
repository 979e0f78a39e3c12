package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// diagram is a story as a sequence diagram, in SVG's units. Time goes down, but not
// to scale: a second takes less room than a thousand times a millisecond, and what
// begins has room for its text.
type diagram struct {
	Height   int
	Parties  []place
	Messages []message
	Notes    []message
	Times    []place
	// Gaps say how long nothing happened, where that is at least longGap.
	Gaps []place
}

// place is a text and where it is.
type place struct {
	Text string
	X, Y int
}

// message is an event as it is drawn: its Label, and for a note a band from Top, for
// any other an arrow's Path; a lost one has its sender's Wait.
type message struct {
	Event
	Label       string
	X, Y        int
	Anchor      string
	Path, Wait  string
	Top, Height int
}

const (
	// diagramTop is where time begins, below the parties' names.
	diagramTop = 36
	// textRoom is what a text needs above the beginning of its arrow.
	textRoom = 18
	// timeRoom is what a printed time needs.
	timeRoom = 12
	// slant is the least that an arrow falls.
	slant = 10
	// longestLabel is how many letters fit between two lifelines.
	longestLabel = 40
	// longGap is in milliseconds.
	longGap = 1000
)

// lanes are where the lifelines are; page.html has the same. A party that is none of
// these stands at the left edge.
var lanes = map[Party]int{Caller: 110, Orders: 400, Inventory: 690}

// instant is the beginning or the end of an event.
type instant struct {
	at    float64
	event int
	end   bool
}

// room is how far down a time of so many milliseconds leads.
func room(ms float64) int { return int(min(60, 6*math.Log2(1+ms))) }

func draw(story []Event) diagram {
	var instants []instant
	for i, e := range story {
		instants = append(instants, instant{e.AtMS, i, false}, instant{max(e.AtMS, e.UntilMS), i, true})
	}
	slices.SortStableFunc(instants, func(a, b instant) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.event, b.event))
	})

	var d diagram
	y, began, ended := diagramTop, make([]int, len(story)), make([]int, len(story))
	for i, now := range instants {
		last := y
		if i > 0 {
			passed := now.at - instants[i-1].at
			y += room(passed)
			if passed >= longGap {
				d.Gaps = append(d.Gaps, place{"⋮ " + duration(passed), 0, (last + y) / 2})
			}
		}
		if now.end {
			y = max(y, began[now.event]+slant)
			ended[now.event] = y
		} else {
			y = max(y, last+textRoom)
			began[now.event] = y
		}
	}
	d.Height = y + 16
	for _, p := range []Party{Caller, Orders, Inventory} {
		d.Parties = append(d.Parties, place{string(p), lanes[p], 14})
	}
	d.Times = times(instants, began, ended)
	for i, e := range story {
		if e.From == "" {
			d.Notes = append(d.Notes, note(e, began[i], ended[i]))
		} else {
			d.Messages = append(d.Messages, arrow(e, began[i], ended[i]))
		}
	}
	return d
}

// times are printed where something begins and, where there is room, where it ends.
func times(instants []instant, began, ended []int) []place {
	var all []place
	for _, now := range instants {
		if !now.end {
			all = append(all, place{clock(now.at), 0, began[now.event]})
		}
	}
	for _, now := range instants {
		y := ended[now.event]
		if now.end && !slices.ContainsFunc(all, func(p place) bool { return max(p.Y-y, y-p.Y) < timeRoom }) {
			all = append(all, place{clock(now.at), 0, y})
		}
	}
	return all
}

func note(e Event, from, to int) message {
	return message{Event: e, Label: label(e), X: lanes[Orders] + 8, Y: from - 4, Top: from - textRoom, Height: to - from + textRoom}
}

// arrow leads from the one lifeline to the other. A lost one ends half way, soon; its
// sender waits until it knows.
func arrow(e Event, from, to int) message {
	x, target := lanes[e.From], lanes[e.To]
	m := message{Event: e, Label: label(e), X: x + 8, Y: from - 4}
	if target < x {
		m.X, m.Anchor = x-8, "end"
	}
	switch {
	case e.Lost:
		m.Path = fmt.Sprintf("M%d %dL%d %d", x, from, (x+target)/2, from+slant)
		m.Wait = fmt.Sprintf("M%d %dV%d", x, from, to)
	case x == target:
		m.Path = fmt.Sprintf("M%d %dh20V%dh-20", x, from, to)
	default:
		m.Path = fmt.Sprintf("M%d %dL%d %d", x, from, target, to)
	}
	return m
}

func label(e Event) string {
	text := e.Text
	if e.Repair {
		text = "↻ " + text
	}
	if letters := []rune(text); len(letters) > longestLabel {
		return string(letters[:longestLabel-1]) + "…"
	}
	return text
}

// Class is how it looks.
func (m message) Class() string {
	var class []string
	if m.Repair {
		class = append(class, "repair")
	}
	if m.Lost {
		class = append(class, "lost")
	}
	return strings.Join(class, " ")
}

// Title is what is said to whoever points at it. It has the text if the label has not.
func (m message) Title() string {
	title := fmt.Sprintf("%s to %s ms", clock(m.AtMS), clock(m.UntilMS))
	if !strings.HasSuffix(m.Label, m.Text) {
		title = m.Text + ": " + title
	}
	if m.Lost {
		title += ", lost"
	}
	if m.Detail != "" {
		title += "\n" + m.Detail
	}
	return title
}

func clock(ms float64) string {
	if math.Abs(ms) < 10 {
		return fmt.Sprintf("%.1f", ms)
	}
	return fmt.Sprintf("%.0f", ms)
}

// duration is milliseconds for people.
func duration(ms float64) string {
	if math.Abs(ms) < 1000 {
		return clock(ms) + " ms"
	}
	return fmt.Sprintf("%.1f s", ms/1000)
}
