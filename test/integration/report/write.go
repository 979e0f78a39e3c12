package report

// Write is a stand-in until the page is merged.
func (r Report) Write(folder string) (string, error) { return folder, nil }
