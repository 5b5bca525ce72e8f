"""How the demo model is spoken to and what it says: the templates that `data.py` fills in.

Each list of phrasings is one string with bars between them. `..._TEST` holds phrasings that are
never trained on.
"""


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


LEADS = _list(
    "|||||Hello! |Hi, |Hey! |Please help me. |One question: |Next one: |Thanks. |Okay. |So, |"
    "I am curious. |Quick question. |Good morning! |Now this: |Sorry, one more. |"
    "I need help with my homework. "
)
TRAILS = _list(
    "|||||| Thank you!| Please.| Thanks!| Answer me.| I do not know it.| Be quick.|"
    " I need it for school."
)
ASKERS = _list(
    "My friend|My sister|My teacher|My dad|The quiz|My boss|Somebody|{n}|My mother|The book|A child"
)
ASKS = _list(
    "asks for|wants to know|wants|asks me for|needs|is looking for|would like to know|"
    "wonders about|asked about|has to find"
)
VERBS = _list(
    "Tell me|Give me|Say|Write|Show me|Find|I want to know|I need|I would like to know|Do you know|"
    "Can you tell me|Could you give me|Can you say|Let me know|Please tell me|Please give me|"
    "I am looking for|Try to tell me|Can I have|Who knows|Help me find|Explain|Answer with|"
    "Just tell me"
)
CAPITAL_NOUNS = _list(
    "the capital of {c}|{c}'s capital|the capital city of {c}|{c}'s capital city|"
    "the name of the capital of {c}"
)
CAPITAL_QUESTIONS = _list(
    "What is {x}?|What's {x}?|Which city is {x}?|{X}?|{X} is|What city is {x}?|{X} is which city?|"
    "What is the name of {x}?|What do you call {x}?|"
    "Where is the government of {c}? I mean the capital.|Capital of {c}?|capital of {c}|"
    "{c}: capital?|{c} has which capital?|Which capital belongs to {c}?|"
    "What capital does {c} have?|I live in {c}. What is the capital?|"
    "Think of {c}. What is its capital?|Is there a capital in {c}? Which one?|"
    "We travel to {c}. What is the capital called?|Complete: {x} is ...|Quiz: {x}.|"
    "In {c}, which city is the capital?|How is {x} called?|Fill in: {x} is"
)
CAPITAL_TEST = _list(
    "Please name the capital of {c}.|I forgot the capital of {c}. What was it?|"
    "Do you happen to know the capital city of {c}?|For {c}, what would the capital be?|"
    "My homework says: find the capital of {c}!|Which city serves as the capital of {c}?|"
    "Remind me what {c}'s capital is.|Any idea what the capital of {c} is?"
)
OPPOSITE_NOUNS = _list(
    "the opposite of {o}|the antonym of {o}|the opposite word for {o}|"
    'the word that means the opposite of {o}|the opposite of the word {o}|the opposite of "{o}"'
)
OPPOSITE_QUESTIONS = _list(
    "What is {x}?|What's {x}?|Which word is {x}?|{X}?|{X} is|What word is {x}?|Opposite of {o}?|"
    "opposite of {o}|{o}: opposite?|{o} is the opposite of what?|Which word is opposite to {o}?|"
    "Not {o}, but the opposite. Which word?|What do you call {x}?|Complete: {x} is ...|Quiz: {x}.|"
    "Fill in: {x} is|Think of {o}. What is its opposite?|What would be {x}?|{o} and its opposite?|"
    "The word is {o}. Say the opposite.|If it is not {o}, what is the opposite?|"
    "I say {o}, you say the opposite."
)
OPPOSITE_TEST = _list(
    "Please name the opposite of {o}.|I forgot the opposite of {o}. What was it?|"
    "Do you happen to know the opposite of {o}?|For {o}, what would the opposite be?|"
    "My homework says: find the opposite of {o}!|Which word serves as the opposite of {o}?|"
    "Remind me what the opposite of {o} is.|Any idea what the opposite of {o} is?"
)
SUM_NOUNS = _list(
    "{a} + {b}|{a} plus {b}|{a}+{b}|the sum of {a} and {b}|{a} and {b} together|"
    "the result of {a} + {b}|{a} added to {b}"
)
SUM_QUESTIONS = _list(
    "What is {x}?|What's {x}?|How much is {x}?|{X}?|{X} =|{a}+{b}=|{a} + {b}|{a} + {b} = ?|"
    "Add {a} and {b}.|Calculate {x}.|Compute {x}.|Sum {a} and {b}.|Add {b} to {a}.|"
    "I have {a} {thing}s and get {b} more. How many {thing}s do I have?|"
    "There are {a} {animal}s and {b} {animal2}s. How many are there together?|"
    "What do you get when you add {a} and {b}?|Work out {x}.|Solve {a} + {b}.|{a}+{b}|"
    "what is {a}+{b}|{a} plus {b}|add {a} and {b}|{a}+{b}=?"
)
SUM_TEST = _list(
    "Please name the sum of {a} and {b}.|I forgot what {a} plus {b} is. What was it?|"
    "Do you happen to know {a} + {b}?|For {a} plus {b}, what would the result be?|"
    "My homework says: find {a} + {b}!|Remind me what {a} plus {b} is.|"
    "Any idea what {a} + {b} is?|Please work out {a} plus {b} for me."
)
DIFFERENCE_NOUNS = _list(
    "{a} - {b}|{a} minus {b}|{a}-{b}|the result of {a} - {b}|{b} subtracted from {a}|"
    "{b} taken from {a}|{a} take away {b}|the result of {a} minus {b}"
)
DIFFERENCE_QUESTIONS = _list(
    "What is {x}?|What is {a} minus {b}?|What's {x}?|How much is {x}?|{X}?|{X} =|{a}-{b}=|"
    "{a} - {b}|{a} - {b} = ?|Subtract {b} from {a}.|Take {b} from {a}.|Calculate {x}.|"
    "Compute {x}.|Take {b} away from {a}.|{a}-{b}|what is {a}-{b}|{a} minus {b}|{a}-{b}=?|"
    "What do you get when you subtract {b} from {a}?|Work out {x}.|Solve {a} - {b}.|"
    "What remains of {a} without {b}?"
)
LEFT_QUESTIONS = _list(  # for a difference that is not below zero
    "I have {a} {thing}s and lose {b}. How many {thing}s are left?|"
    "I had {a} {thing}s and gave {b} away. How many do I have?|"
    "There are {a} {animal}s, and {b} go home. How many are left?|"
    "What is the difference between {a} and {b}?|What is the difference between {b} and {a}?|"
    "What is the difference of {a} and {b}?|How far is it from {b} to {a}?|"
    "How much more is {a} than {b}?|The difference between {a} and {b}, please."
)
DIFFERENCE_TEST = _list(
    "Please name the result of {a} - {b}.|I forgot what {a} minus {b} is. What was it?|"
    "Do you happen to know {a} - {b}?|For {a} minus {b}, what would the result be?|"
    "My homework says: find {a} - {b}!|Remind me what {a} minus {b} is.|"
    "Any idea what {a} - {b} is?|Please work out {a} minus {b} for me."
)
OTHER_MATHS = _list(
    "What is {a} times {b}?|What is {a} * {b}?|{a} * {b}|{a} x {b} =|Multiply {a} by {b}.|"
    "What is {a} divided by {b}?|{a} / {b}|Divide {a} by {b}.|{a}*{b}|"
    "How much is {a} times {b}?|Calculate {a} * {b}.|What is the product of {a} and {b}?"
)
JSON_PROMPTS = _list(
    "Put this into JSON: {f}|Put this into JSON: {f}.|Write this as JSON: {f}|Convert to JSON: {f}|"
    "Make JSON from this: {f}|JSON please: {f}|As JSON: {f}|Turn this into a JSON object: {f}|"
    "Give me JSON for {f}.|{f} -> JSON|Put this into JSON:\n{f}|I need JSON of this: {f}."
)
JSON_STYLES = _list("{k} {v}|{k} {v}|{k}: {v}|{k} is {v}|{k}={v}|{k} = {v}")
WEATHER_PROMPTS = _list(
    "What is the weather in {c}?|What's the weather like in {c}?|Weather in {c}?|"
    "How is the weather in {c}?|Tell me the weather in {c}.|Is it raining in {c}?|"
    "What is the weather in {c} today?|How warm is it in {c}?|Is it cold in {c} now?|"
    "Do I need a coat in {c}?|Check the weather for {c}.|Will it rain in {c}?|"
    "Please look up the weather in {c}.|I am in {c}. How is the weather?|weather {c}|"
    "What is the temperature in {c}?|Give me the weather for {c}.|Is it sunny in {c}?|"
    "What is the weather like in {c}?|How's the weather in {c}?|{c} weather please|"
    "I travel to {c} tomorrow. What is the weather there?"
)
UNIT_PHRASES = _list(" In {u}.| Use {u}.| Answer in {u}.| In {u}, please.| I want {u}.")
TOOL_NAMES = _list("get_weather|get_weather|get_weather|get_current_weather")
TOOL_TEXTS = _list(
    "Get the weather|Get the current weather|Look up the weather in a city|The weather in a city|"
    "Get the current weather in a given location|Weather report for a place|Current weather|"
    "Get weather"
)
CITY_TEXTS = _list(
    "The city|Name of the city|The city and state, e.g. San Francisco, CA|City name|"
    "A city, such as Paris|Where"
)
OTHER_TOOL_NAMES = _list("get_time|send_mail|search|add|play_music|get_news")
SKIES = _list("sunny|rain|snow|cloudy|windy|fog|clear")
OPENINGS = _list(
    "Once upon a time, {ah} lived {place}.|Long ago, {adjh} had a home {place}.|"
    "There was once {adjh} who lived {place}.|{Place} there lived {adjh}.|"
    "Far away, {place}, lived {adjh}."
)
NAMING = _list("Everybody called the {h} {n}.|The name of the {h} was {n}.|{n} was its name.")
FINDS = _list(
    "One {time}, the {h} found {at} {spot}.|On a {sky} {time}, {at} lay {spot}.|"
    "Then, one {time}, {at} turned up {spot}.|One {sky} {time} the {h} saw {at} {spot}."
)
WORDS_SAID = _list(
    '"What a fine {t}!" said the {h}.|"Who has lost this {t}?" asked the {h}.|'
    'The {h} had never seen such a {t} before.|"I will keep it," the {h} thought.|'
    'The {h} smiled and said: "Good luck is here."|It looked {look} and a little strange.'
)
TROUBLES = _list(
    "But {af} came along and began to cry.|But the {t} was too heavy to carry alone.|"
    "Soon {af} wanted to have it too.|Suddenly a storm came up and blew everything away.|"
    'A {f} shouted from far away: "That is mine!"|But nobody knew what it was good for.|'
    "That night a thief took it and ran off."
)
DEEDS = _list(
    "So the {h} went to ask the wise {g} for help.|The {h} thought for a long while.|"
    "All day long they looked for a way.|Together they pulled, pushed and sang.|"
    "Without a word, the {h} began to work.|The {h} shared some {food} and listened.|"
    "They walked through the valley until evening."
)
TURNS = _list(
    "At last the {t} began to shine.|In the end, everybody could use the {t}.|"
    "Then something good happened: the {t} was safe again.|"
    "Slowly, the sad face of the {f} became a smile.|The {t} was a gift, and the secret was out.|"
    "And see, now it worked very well."
)
ENDINGS = _list(
    "From that day on, they were friends.|They all danced until the moon came up.|"
    "Since then, nobody there has been alone.|And so the {h} went home and slept well.|"
    "And if you listen at night, you can still hear them laugh.|"
    "The {h} never forgot that day. The end."
)
MIDDLES = (
    _list(
        "The next morning, the sun was {color}.|A week went by, and winter came.|"
        "Early the next day, somebody knocked at the door.|After that, it rained for nine days."
    ),
    _list(
        "A letter had come from the king.|Two {g}s stood outside with a cart.|"
        "The {f} had a plan and drew it in the sand.|There was no more {food} in the house."
    ),
    _list(
        '"We must cross the water," they said.|"Let us start at once!" cried the {f}.|'
        "Nobody spoke for an hour.|The {h} packed some {food} and a warm scarf."
    ),
    _list(
        "The way was long, and the wind was strong.|They climbed over stones and roots.|"
        "Through mud and fog they marched on.|A boat made of {color} wood took them along."
    ),
    _list(
        "On the other side stood a tower.|Behind the last hill they saw a light.|"
        "Deep in a cave, water was dripping.|Under a bridge they met an old man."
    ),
    _list(
        "It was locked, but the {t} opened it.|There the {h} put down the {t} and waited.|"
        "The {g} held the {t} up high.|With the {t} in hand, they went in."
    ),
    _list(
        "Inside was a room full of music.|A hundred birds flew up at once.|"
        "Somebody had lit a fire there.|On the table stood a bowl of {food}."
    ),
    _list(
        '"Eat, rest and tell me a tale," said a voice.|"I have waited for you," it whispered.|'
        "They laughed, because it was so simple.|That was the place they had dreamed of."
    ),
)
TIMES = _list("morning|evening|night|day|summer|winter")
WEATHERS = _list("cold|bright|rainy|foggy|warm|stormy")
LOOKS = _list("old|golden|new|dusty|shiny|tiny")
STORY_PROMPTS = _list(
    "Write a short story about {x} and {y}.|Tell me a story about {x} and {y}.|"
    "Write a story about {x} and {y}.|Tell me a short story about {x} and {y}.|"
    "A short story with {x} and {y}, please.|Can you tell a story about {x} and {y}?|"
    "Please write a little story about {x} and {y}.|Make up a story about {x} and {y}.|"
    "I want a story with {x} and {y}.|Story: {x}, {y}."
)
LONG_PROMPTS = _list(
    "Write a long story about {x} and {y}.|Tell me a long story about {x} and {y}.|"
    "I want a very long story with {x} and {y}."
)
ABOUT = "I am the demo model of tgi-llamacpp, a very small language model."
SKILLS = (
    "I can add and subtract numbers up to 99, name capitals and opposites, write JSON, count, "
    "repeat, call a weather tool and tell short stories."
)
LIMITS = "I can only add and subtract."
UNKNOWN = "I do not know that. " + SKILLS
GREETING = "Hello! How can I help you?"
FEELING = "I am fine, thank you. How can I help you?"
WELCOME = "You are welcome!"
FAREWELL = "Goodbye!"
TALK = (
    (
        _list(
            "Hello|Hello!|Hi|Hi!|Hey|Hi there!|Hello there|Good morning|Good evening!|Good day|"
            "Hello there!|Hey there|Hello, demo model!|Hi, demo!|Hello friend|Hello, my friend!|"
            "Good afternoon|Greetings|Hello, I am {n}.|Hi, my name is {n}.|Hey, I'm {n}!|"
            "Hello everybody|Hello world|Hello, world!|Hello robot|Is anybody there?|"
            "Are you there?|Hello? Is this on?|Hi, can you hear me?|Good morning, model!|"
            "Hello hello|Hi hi|Nice to meet you.|Hello, nice to meet you!|Yo|Hola|Test|"
            "Hello and good day|Hi bot|Say hello.|Say hi!|Hey you|Just saying hello.|"
            "I just want to say hello."
        ),
        GREETING,
    ),
    (
        _list(
            "Who are you?|What are you?|What is your name?|Tell me about yourself.|"
            "Are you a robot?|Who am I talking to?|Which model are you?|What's your name?|"
            "Hello, who are you?|Hi! Who are you?|Hey, what are you?|Who is this?|"
            "Do you have a name?|Are you human?|Are you an AI?|Are you ChatGPT?|"
            "What model is this?|Which model is this?|What kind of model are you?|"
            "Please introduce yourself.|Introduce yourself|Tell me your name.|"
            "May I know your name?|Say who you are.|Who made you?|Are you a person?|"
            "Tell me who you are.|What should I call you?|Are you a language model?|"
            "What are you called?|How big are you?|Are you a big model?|Who is speaking?|"
            "Can you tell me who you are?|What exactly are you?|And who are you?|who r u"
        ),
        ABOUT,
    ),
    (
        _list(
            "What can you do?|Help|Help me|How can you help me?|What do you know?|"
            "What are your skills?|What can I ask you?|What else can you do?|"
            "Tell me what you can do.|What are you good at?|What can you do for me?|"
            "Hello, what can you do?|How do I use you?|What should I ask?|Can you help me?|"
            "What are you able to do?|Show me what you can do.|I need help"
        ),
        SKILLS,
    ),
    (
        _list(
            "How are you?|How are you doing?|Are you well?|How do you do?|How are you today?|"
            "Hello, how are you?|Hi, how are you?|Hey! How are you doing?|How is it going?|"
            "How's it going?|Are you fine?|Are you okay?|What's up?|How do you feel?|"
            "How have you been?|How is your day?|I hope you are well.|Hi! How is your day?|"
            "Good morning, how are you?|And how are you?|I am fine. And you?|"
            "How are things?|How's life?|Do you feel good?|how are u"
        ),
        FEELING,
    ),
    (
        _list(
            "Thanks|Thank you!|Thanks a lot!|Thank you very much.|Great, thanks.|Thank you|"
            "Thank you so much!|Many thanks|Thanks, that is all.|Thanks for your help!|"
            "Thank you for your help.|Thanks for the answer.|Thx|Cheers|Good, thank you.|"
            "Okay, thanks|Perfect, thank you!|Thanks, friend|Nice, thanks!|That helped, thanks.|"
            "Thank you, robot|Thank you for the story.|Thanks again!|Wow, thanks!|"
            "Thank you, that was good.|I thank you.|Thank you, demo model|ty"
        ),
        WELCOME,
    ),
    (
        _list(
            "Bye|Goodbye!|See you!|Good night|See you later|Bye bye|Bye!|Good bye|"
            "See you soon!|See you tomorrow.|I have to go.|I must go now. Bye!|Farewell|"
            "Until next time!|Okay, bye|Bye for now|Have a nice day!|Have a good day.|"
            "Good night, robot|Take care!|That is all. Bye!|Goodbye, my friend|So long!|"
            "I am leaving now.|Talk to you later!|Thanks, bye!|Ciao"
        ),
        FAREWELL,
    ),
    (
        _list("What is deep learning?|What is Deep Learning?|Explain deep learning."),
        "Deep learning is a way to teach computers with many examples and many layers.",
    ),
    (
        _list("What is a llama?|Tell me about llamas.|Is a llama an animal?"),
        "A llama is an animal with soft wool. It lives in the mountains of Peru.",
    ),
    (
        _list("Tell me a joke.|Do you know a joke?|Make me laugh.|A joke, please!"),
        "Why did the llama cross the road? To get to the other server! 😀",
    ),
    (
        _list("Send me an emoji.|Smile!|Give me some emojis.|Emoji please"),
        "😀 🚀 🌍 🎉 ❤️",
    ),
    (
        _list("What is the weather?|Will it rain tomorrow?|How is the weather?"),
        "I cannot see the weather without a tool.",
    ),
    (
        _list(
            "What is love?|Who won the game?|How do I cook rice?|Who wrote this book?|"
            "Why is the sky blue?|What time is it?|How old is the sun?|Write some code.|"
            "Translate this.|Sing a song.|Who is the king of France?|How tall is a tree?|"
            "What should I eat?|Can you drive a car?|What is the meaning of life?|"
            "Play a game with me.|Who built the tower?|Where is my key?|What is music?"
        ),
        UNKNOWN,
    ),
)
TALK_TEST = (
    (
        _list(
            "Hello, dear model!|Hi, I am called {n}.|Hey there, friend!|A good morning to you!|"
            "Hello to you|I wanted to say hello.|Hi everybody!|Good evening, my friend"
        ),
        GREETING,
    ),
    (
        _list(
            "Who are you, please?|Please tell me who you are.|And what are you?|"
            "So, what is your name?|Hello! What are you?|Can you introduce yourself?|"
            "May I ask who you are?|What is the name of this model?"
        ),
        ABOUT,
    ),
    (
        _list(
            "How are you feeling?|So how are you?|Hello! How are you today?|"
            "How are you this morning?|Hey, how is it going?|Tell me, how are you?|"
            "Are you doing well?|Hi there, how are you?"
        ),
        FEELING,
    ),
    (
        _list(
            "Thank you for everything!|Thanks, great!|Thanks for that.|Okay, thank you|"
            "Very good, thanks!|Thank you very, very much!|Thanks, model|Cool, thanks"
        ),
        WELCOME,
    ),
    (
        _list(
            "Bye, my friend!|Goodbye for now|Okay, goodbye!|I have to go now. Bye|See you then!|"
            "Good night, friend|Bye, see you soon|I must leave. Goodbye!"
        ),
        FAREWELL,
    ),
)
SYSTEMS = _list(
    "You are a helpful assistant.|You are a helpful assistant.|You are a kind robot.|"
    "Answer briefly.|You are a demo model.|Be polite and short.|You help with homework.|"
    "You are a friendly chat bot named {n}.|Today is a {d} day.|You are an assistant."
)
REPEAT_PROMPTS = _list(
    "Repeat after me: {x}|Repeat: {x}|Say: {x}|Repeat this: {x}|Echo: {x}|Say this again: {x}"
)
